# The container sees its own group as the root, read-only, and what it starts
# by exec is in it.
import_image
equal 'own view' '0::/' "$(gantry run --rm --network none "$IMAGE" cat /proc/self/cgroup)"
try gantry run --rm --network none "$IMAGE" mkdir /sys/fs/cgroup/escape
[ "$status" != 0 ] || fail 'the container could make a cgroup'
gantry run -d --network none --name here "$IMAGE" sleep 1000 >/dev/null
gantry exec -d here sleep 999
for _ in $(seq 50); do
    [ "$(wc -l <"$(cgroup_of here)/cgroup.procs")" = 2 ] && break
    sleep 0.1
done
equal 'processes in the group' 2 "$(wc -l <"$(cgroup_of here)/cgroup.procs")"
group=$(cgroup_of here)
gantry rm -f here >/dev/null
[ ! -e "$group" ] || fail "the group $group is left"
