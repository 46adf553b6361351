# Limits of linux.resources are written to cgroup v2, can be changed while the
# container runs, and what it uses can be read: all by gantry-runtime alone.
make_bundle
# Everything that version 2 has a file for is written.
disk=$(cat /sys/class/block/vda/dev)
numbers="\"major\": ${disk%:*}, \"minor\": ${disk#*:}"
start_bundle all '{
    "memory": {"limit": 67108864, "swap": 100663296, "reservation": 33554432},
    "cpu": {"shares": 512, "quota": 20000, "period": 50000, "burst": 1000, "cpus": "1", "mems": "0"},
    "pids": {"limit": 7},
    "blockIO": {"throttleWriteIOPSDevice": [{'"$numbers"', "rate": 100}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}],
    "unified": {"memory.high": "62914560"}
}' sleep 1000
for pair in memory.max=67108864 memory.swap.max=33554432 memory.low=33554432 \
    memory.high=62914560 cpu.weight=59 'cpu.max=20000 50000' cpu.max.burst=1000 cpuset.cpus=1 \
    cpuset.mems=0 pids.max=7 hugetlb.2MB.max=4194304 hugetlb.2MB.rsvd.max=4194304 \
    "io.max=$disk rbps=max wbps=max riops=max wiops=100"; do
    equal "${pair%%=*}" "${pair#*=}" "$(group_file "${pair%%=*}")"
done
# Down below the old sum, up above it, and unlimited.
for sizes in '33554432 33554432 0' '134217728 201326592 67108864' '67108864 -1 max'; do
    read -r limit both swap <<<"$sizes"
    gantry-runtime update --memory "$limit" --memory-swap "$both" all
    equal memory.max "$limit" "$(group_file memory.max)"
    equal memory.swap.max "$swap" "$(group_file memory.swap.max)"
done
gantry-runtime update --pids-limit 9 --cpu-quota 10000 --cpu-period 20000 --cpu-share 1024 all
equal pids.max 9 "$(group_file pids.max)"
equal cpu.max '10000 20000' "$(group_file cpu.max)"
equal cpu.weight 100 "$(group_file cpu.weight)"
echo '{"blockIO": {"throttleReadBpsDevice": [{'"$numbers"', "rate": 1048576}]}}' |
    gantry-runtime update -r - all
equal io.max "$disk rbps=1048576 wbps=max riops=max wiops=100" "$(group_file io.max)"
# What it uses.
stats=$(gantry-runtime events --stats all)
equal 'pids in the statistics' '1 9' "$(jq -r '"\(.data.pids.current) \(.data.pids.limit)"' <<<"$stats")"
jq -e '.type == "stats" and .id == "all" and .data.cpu.usage.total > 0
    and .data.memory.usage.usage > 0 and .data.memory.usage.limit == 67108864' <<<"$stats" >/dev/null ||
    fail "statistics: $stats"
# Pausing stops it, and shows.
gantry-runtime pause all
equal frozen 1 "$(group_key cgroup.events frozen)"
equal 'state of the paused container' paused "$(gantry-runtime state all | jq -r .status)"
gantry-runtime resume all
equal frozen 0 "$(group_key cgroup.events frozen)"
end_bundle all
