# containerd's `ctr run --runc-binary`.
. "$SCRIPTS/common.sh"
cat >config.toml <<END
version = 2
root = "$DIRECTORY/root"
state = "$DIRECTORY/run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$DIRECTORY/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$DIRECTORY/opt"
END
containerd --config config.toml >log 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon' EXIT
ctr() { command ctr -a "$DIRECTORY/c.sock" "$@"; }
until_ok ctr version

on="--runc-binary $RUNTIME --cgroup /$GROUP"
one() { expect "$1" "$2" ctr run --rm $on/one --rootfs "$ROOTFS" one "$3" "$4" "$5"; }
expect() { # ctr is a function here
    code=$1 words=$2
    shift 2
    found=0
    output=$("$@" 2>&1 </dev/null) || found=$?
    case "$found:$output" in
    "$code:"*"$words"*) ;;
    *)
        echo "$*: $found instead of $code, or nothing of $words: $output" >&2
        exit 1
        ;;
    esac
}
one 3 hello sh -c 'echo hello; exit 3'
expect 1 'executable file not found in $PATH' \
    ctr run --rm $on/bad --rootfs "$ROOTFS" bad nope
ctr run -d $on/two --rootfs "$ROOTFS" two sleep 1000
expect 0 RUNNING ctr task ls
expect 4 inside ctr task exec --exec-id a two sh -c 'echo inside; exit 4'
expect 1 'executable file not found in $PATH' ctr task exec --exec-id b two nope
expect 0 memory ctr task metrics two
ctr task pause two
expect 0 PAUSED ctr task ls
ctr task resume two
expect 0 RUNNING ctr task ls
ctr task kill -s KILL two
stopped() { ctr task ls | grep -q STOPPED; }
until_ok stopped
ctr task rm two
ctr container rm two
