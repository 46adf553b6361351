# Limits of linux.resources are enforced by cgroup v2, by gantry-runtime alone.
make_bundle
disk=$(cat /sys/class/block/vda/dev)
numbers="\"major\": ${disk%:*}, \"minor\": ${disk#*:}"

# A process that exceeds its memory is killed. tail keeps the whole of a line.
configure '{"memory": {"limit": 33554432, "swap": 33554432}}' tail /dev/zero
try gantry-runtime run -b "$BUNDLE" greedy
equal 'exit status of the greedy container' 137 "$status"

# A busy loop gets no more than its quota, and only the processor of its set.
start_bundle busy '{"cpu": {"quota": 20000, "period": 100000, "cpus": "1"}}' \
    sh -c 'while :; do :; done'
before=$(group_key cpu.stat usage_usec)
first=$(group_key cpu.stat nr_periods)
# By the kernel's own count of periods: this machine's seconds are long ones.
for _ in $(seq 100); do
    [ $(($(group_key cpu.stat nr_periods) - first)) -ge 10 ] && break
    sleep 0.1
done
used=$(($(group_key cpu.stat usage_usec) - before))
periods=$(($(group_key cpu.stat nr_periods) - first))
[ "$periods" -ge 10 ] || fail "the busy loop ran in $periods periods only"
[ "$used" -lt $(((periods + 2) * 30000)) ] ||
    fail "the busy loop got $used us in $periods periods of 20000 us"
[ "$(group_key cpu.stat nr_throttled)" -gt 0 ] || fail 'the busy loop was not throttled'
pid=$(gantry-runtime state busy | jq .pid)
equal Cpus_allowed_list 1 "$(awk '/^Cpus_allowed_list/ { print $2 }' "/proc/$pid/status")"
end_bundle busy

# The sixth task is refused.
start_bundle crowd '{"pids": {"limit": 5}}' \
    sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait'
for _ in $(seq 50); do
    [ "$(group_key pids.events max)" -gt 0 ] && break
    sleep 0.1
done
[ "$(group_key pids.events max)" -gt 0 ] || fail 'the crowd met no limit'
[ "$(cat "$GROUP/pids.current")" -le 5 ] || fail "the crowd has $(cat "$GROUP/pids.current") tasks"
end_bundle crowd

# 3 MB at 1 MB/s, from the disk and not from the cache.
head -c 3145728 /dev/urandom >"$BUNDLE/rootfs/block"
sync "$BUNDLE/rootfs/block"
echo 3 >/proc/sys/vm/drop_caches
configure '{"blockIO": {"throttleReadBpsDevice": [{'"$numbers"', "rate": 1048576}]}}' \
    sh -c 'read start rest </proc/uptime; cat /block >/dev/null; read end rest </proc/uptime; echo "$start $end"'
took=$(gantry-runtime run -b "$BUNDLE" reader | awk '{ print ($2 - $1 >= 2) }')
equal 'a throttled read took 2 s' 1 "$took"

# Devices that are not named do not open; an empty resources object allows no more.
jq 'del(.linux.resources) | .linux.resources = {} | .process.terminal = false
    | .process.args = ["sh", "-c", $script]
    | .process.capabilities |= map_values(. + ["CAP_MKNOD"])' --arg script \
    "mknod /tmp/disk b ${disk%:*} ${disk#*:} && echo made && head -c 1 /dev/zero | wc -c && dd if=/tmp/disk of=/dev/null count=1" \
    <"$BUNDLE/config.plain" >"$BUNDLE/config.json"
mkdir -p "$BUNDLE/rootfs/tmp"
jq '.root.readonly = false' "$BUNDLE/config.json" >"$BUNDLE/config.new"
mv "$BUNDLE/config.new" "$BUNDLE/config.json"
try gantry-runtime run -b "$BUNDLE" devices
grep -q '^made' <<<"$output" || fail "no node was made: $output"
grep -q '^1$' <<<"$output" || fail "/dev/zero did not open: $output"
grep -q 'Operation not permitted' <<<"$output" || fail "the disk was not refused: $output"
[ "$status" != 0 ] || fail 'the disk could be read'
