# dockerd's `--add-runtime`: DOCKER_HOST and DOCKER_CONFIG lead to it.
. "$SCRIPTS/common.sh"
# What the kernel does not execute, or not for everybody.
mkdir programs
printf garbage >programs/garbage
printf '#!/nowhere\n' >programs/link
printf '#!/bin/sh\n' >programs/roots
chmod 755 programs/*
chmod 700 programs/roots
tar -C "$ROOTFS" -c . -C "$DIRECTORY" programs | docker import - box >/dev/null

run="docker run --runtime gantry --network none --cgroup-parent /$GROUP"
expect 3 hello $run --rm box sh -c 'echo hello; exit 3'
expect 127 'executable file not found in $PATH' $run --rm box nope
expect 126 'permission denied' $run --rm box /etc/passwd
expect 127 'no such file or directory' $run --rm box /programs/link
expect 126 'permission denied' $run --rm --user 1000 box /programs/roots
expect 126 'Exec format error' $run --rm box /programs/garbage
# It stays until it is removed, and can be.
expect 127 'executable file not found in $PATH' $run --name bad box nope
expect 0 'created 127' docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' bad
expect 0 bad docker rm bad
expect 0 'uid=1000(app)' $run --rm --user 1000 box id
expect 0 docker-init $run --rm --init box cat /proc/1/cmdline
expect 0 'pts/ptmx' $run --rm --privileged box ls -l /dev/ptmx
expect 0 '' $run -d --name two --memory 64m --pids-limit 50 box sleep 1000
expect 4 inside docker exec two sh -c 'echo inside; exit 4'
expect 126 'executable file not found in $PATH' docker exec two nope
expect 0 64MiB docker stats --no-stream two
expect 0 'sleep 1000' docker top two
expect 0 '' docker pause two
expect 0 Paused docker ps --format '{{.Status}}'
expect 0 '' docker unpause two
expect 0 '' docker update --memory 128m --memory-swap 128m two
expect 0 128MiB docker stats --no-stream two
expect 0 '' docker restart -t 1 two
expect 0 Up docker ps --format '{{.Status}}'
expect 0 '' docker rm -f two
