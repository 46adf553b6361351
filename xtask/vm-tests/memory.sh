# -m sets memory.max, and a container that exceeds it is killed with 137.
import_image
equal 'memory.max inside' 67108864 \
    "$(gantry run --rm --network none -m 64m "$IMAGE" cat /sys/fs/cgroup/memory.max)"
gantry run -d --network none --name limited -m 64m "$IMAGE" sleep 1000 >/dev/null
equal 'memory.max outside' 67108864 "$(cat "$(cgroup_of limited)/memory.max")"
gantry rm -f limited >/dev/null
# tail keeps the whole of a line that never ends.
try gantry run --network none --name greedy -m 64m --memory-swap 64m "$IMAGE" tail /dev/zero
equal 'exit status of the greedy container' 137 "$status"
equal 'OOMKilled' true "$(gantry inspect --format '{{.State.OOMKilled}}' greedy)"
