# R38 (GHSA-g54h-m393-cpwq): what the device list does not name is denied, by
# an eBPF program here. The machine's own disk exists, so a runtime that denies
# nothing opens it.
import_image
disk=$(tr ':' ' ' </sys/class/block/vda/dev)
for numbers in '8 0' "$disk"; do
    try gantry run --rm --network none "$IMAGE" \
        sh -c "mknod /tmp/disk b $numbers && dd if=/tmp/disk of=/dev/null bs=512 count=1"
    [ "$status" != 0 ] || fail "block device $numbers could be read"
    grep -q 'Operation not permitted' <<<"$output" || fail "block device $numbers: $output"
done
# An exec joins the same group, so the same program judges it.
gantry run -d --network none --name denied "$IMAGE" sleep 1000 >/dev/null
try gantry exec denied sh -c "mknod /tmp/disk b $disk && dd if=/tmp/disk of=/dev/null bs=512 count=1"
[ "$status" != 0 ] || fail 'an exec could read the disk'
grep -q 'Operation not permitted' <<<"$output" || fail "exec: $output"
# The default devices work all the same.
equal 'default devices' '4 0' "$(gantry exec denied \
    sh -c 'dd if=/dev/urandom bs=4 count=1 2>/dev/null | wc -c | tr "\n" " "; cat /dev/null | wc -c')"
# And a privileged container is one.
try gantry run --rm --network none --privileged "$IMAGE" \
    sh -c "mknod /tmp/disk b $disk && dd if=/tmp/disk of=/dev/null bs=512 count=1"
equal 'exit status of the privileged container' 0 "$status"
