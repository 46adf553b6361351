# podman's `--runtime`.
. "$SCRIPTS/common.sh"
base="podman --root $DIRECTORY/root --runroot $DIRECTORY/run --tmpdir $DIRECTORY/tmp
    --cgroup-manager cgroupfs --runtime $RUNTIME"
mkdir programs
printf garbage >programs/garbage
chmod 755 programs/garbage
tar -C "$ROOTFS" -c . -C "$DIRECTORY" programs | $base import - box >/dev/null 2>&1

# It raises these limits of its own accord, which not everywhere even root may do.
run="$base run --network none --cgroup-parent /$GROUP
    --ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
expect 3 hello $run --rm box sh -c 'echo hello; exit 3'
expect 127 'executable file not found in $PATH' $run --rm box nope
expect 126 'permission denied' $run --rm box /etc/passwd
expect 126 'Exec format error' $run --rm box /programs/garbage
expect 0 'uid=1000(app)' $run --rm --user 1000 box id
expect 0 '' $run -d --name two --memory 64m --pids-limit 50 box sleep 1000
expect 4 inside $base exec two sh -c 'echo inside; exit 4'
expect 127 'executable file not found in $PATH' $base exec two nope
expect 0 67.11MB $base stats --no-stream two
expect 0 'sleep 1000' $base top two
expect 0 '' $base pause two
expect 0 aused $base ps -a --format '{{.Status}}'
expect 0 '' $base unpause two
expect 0 '' $base restart -t 1 two
expect 0 Up $base ps --format '{{.Status}}'
expect 0 '' $base rm -f -t 1 two

# Its own groups, which it leaves.
without_monitors() {
    find /sys/fs/cgroup -depth -path "*/$GROUP/conmon" -exec rmdir {} + || return 1
}
until_ok without_monitors
