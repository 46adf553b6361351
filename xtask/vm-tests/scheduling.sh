# What of `process` needs rights that the other test machines lack: real-time and deadline
# policies, the real-time I/O class, and an out-of-memory score below the own one.
bundle=/tmp/scheduling-bundle
mkdir -p "$bundle/rootfs"
trap 'rm -rf "$bundle"' EXIT
tar -xf /payload/fixtures/busybox.tar -C "$bundle/rootfs"
cd "$bundle"
gantry-runtime spec
mv config.json original.json

# said FILTER SCRIPT: what the script says in a container that jq has changed.
said() {
    jq --arg script "$2" ".process.terminal = false |
        .process.args = [\"sh\", \"-c\", \$script] | $1" original.json >config.json
    gantry-runtime run scheduled </dev/null
}

# Behind the name in stat: 38 is the real-time priority, 39 the policy. Of the shell itself.
policy='read -r line </proc/self/stat; set -- ${line##*)}; echo ${38} ${39}'
equal 'SCHED_FIFO' '10 1' \
    "$(said '.process.scheduler = {policy: "SCHED_FIFO", priority: 10}' "$policy")"
equal 'SCHED_RR' '99 2' \
    "$(said '.process.scheduler = {policy: "SCHED_RR", priority: 99}' "$policy")"
equal 'SCHED_DEADLINE' '0 6' "$(said '.process.scheduler = {policy: "SCHED_DEADLINE",
    runtime: 10000000, deadline: 20000000, period: 40000000}' "$policy")"
equal 'the real-time I/O class' 'realtime: prio 3' \
    "$(said '.process.ioPriority = {class: "IOPRIO_CLASS_RT", priority: 3}' 'ionice -p $$')"
equal 'oomScoreAdj' '-321' \
    "$(said '.process.oomScoreAdj = -321' 'cat /proc/self/oom_score_adj')"
equal 'oomScoreAdj in a user namespace' '-321' "$(
    chown -hR 100000:100000 rootfs
    said '.process.oomScoreAdj = -321 | .linux.namespaces += [{type: "user"}] |
        .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] |
        .linux.gidMappings = .linux.uidMappings' 'cat /proc/self/oom_score_adj'
)"
