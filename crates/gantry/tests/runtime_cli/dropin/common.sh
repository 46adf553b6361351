# What the scripts share. They get RUNTIME (the program), ROOTFS (a root file system of
# busybox), DIRECTORY (their own) and GROUP (the control group above the containers').
set -eu
cd "$DIRECTORY"

# Runs a command that has to print something, and to end with a code.
expect() { # CODE WORDS COMMAND...
    code=$1 words=$2
    shift 2
    found=0
    output=$(timeout 60 "$@" 2>&1 </dev/null) || found=$?
    if [ "$found" != "$code" ]; then
        echo "$* gave $found instead of $code: $output" >&2
        exit 1
    fi
    case $output in
    *"$words"*) ;;
    *)
        echo "$* says nothing of $words: $output" >&2
        exit 1
        ;;
    esac
}

# Waits until a command succeeds.
until_ok() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "waited in vain for $*" >&2
    exit 1
}
