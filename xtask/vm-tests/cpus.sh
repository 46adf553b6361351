# --cpus is a quota of cpu.max, --cpu-shares a weight.
import_image
equal 'cpu.max' '50000 100000' \
    "$(gantry run --rm --network none --cpus 0.5 "$IMAGE" cat /sys/fs/cgroup/cpu.max)"
gantry run -d --network none --name weighed --cpu-shares 512 --cpuset-cpus 1 "$IMAGE" sleep 1000 >/dev/null
group=$(cgroup_of weighed)
weight=$(cat "$group/cpu.weight")
[ "$weight" -lt 100 ] || fail "half of the default shares gave cpu.weight $weight"
equal 'cpuset.cpus' 1 "$(cat "$group/cpuset.cpus")"
