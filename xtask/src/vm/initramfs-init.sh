#!/bin/busybox sh
# The first program of the machine: finds the disks and hands over.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
# Which of virtio and virtio_ring needs the other differs between kernels: what
# cannot be loaded yet is tried again.
for round in 1 2 3; do
    for module in $($b cat /modules/order); do
        $b insmod "/modules/$module" 2>/dev/null
    done
done
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        $b echo 'initramfs: the disks did not appear; modules:' >/dev/ttyS0
        $b cat /proc/modules >/dev/ttyS0
        $b poweroff -f
    fi
    $b usleep 50000
done
$b mount -t ext4 -o noatime /dev/vda /root &&
    $b mount -t ext4 -o ro /dev/vdb /root/payload || {
    $b echo 'initramfs: cannot mount the disks' >/dev/ttyS0
    $b poweroff -f
}
$b umount /proc
$b umount /dev
exec $b switch_root /root /payload/init
