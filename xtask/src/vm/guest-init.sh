#!/bin/sh
# PID 1 of the machine. Makes it look like one, runs /payload/command with its
# streams on the virtio ports, reports the exit status and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue 2>/dev/null
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
# The kernel was told cgroup_no_v1=all, so every controller is here.
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
# The kernel asks for the rest by itself; these have no name that it knows.
modprobe -a overlay br_netfilter 2>/dev/null
hostname gantry-vm
ip link set lo up
cp /payload/bin/* /usr/local/bin/ 2>/dev/null

find_port() {
    for port in /sys/class/virtio-ports/*; do
        if [ "$(cat "$port/name")" = "$1" ]; then
            echo "/dev/${port##*/}"
        fi
    done
}
# A port can be opened once only, so that a program which opens /dev/stdout
# would fail on it: the command writes to FIFOs, and cat carries the bytes.
mkfifo -m 622 /run/stdout /run/stderr
cat /run/stdout >"$(find_port stdout)" &
carry_stdout=$!
cat /run/stderr >"$(find_port stderr)" &
carry_stderr=$!
exec 3>"$(find_port status)"
# From here on the time is the command's: before, a hang is the machine's.
echo started >&3
cd /root || exit
/payload/command </dev/null >/run/stdout 2>/run/stderr 3>&-
status=$?
# Something that the command left running may hold the streams open.
tries=0
while kill -0 $carry_stdout 2>/dev/null || kill -0 $carry_stderr 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -gt 40 ] && break
    sleep 0.05
done
echo "status $status" >&3
echo o >/proc/sysrq-trigger
sleep 60
