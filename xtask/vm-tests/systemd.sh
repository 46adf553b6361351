# The systemd driver, with Debian's systemd as the first process of a container
# made by hand: a PID, mount and cgroup namespace of its own.
top=/sys/fs/cgroup/systemd-test
mkdir "$top"
cat >/tmp/boot-systemd <<'EOF'
mount -t proc proc /proc
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system
# Nothing of the machine's own units is wanted.
printf '[Unit]\nDescription=test\nDefaultDependencies=no\n' >/run/systemd/system/test.target
export container=other
exec /lib/systemd/systemd --system --unit=test.target --log-target=null --show-status=no
EOF
(
    echo 0 >"$top/cgroup.procs"
    exec unshare --cgroup --mount --pid --fork --uts --ipc --kill-child sh /tmp/boot-systemd
) >/dev/null 2>&1 &
outer=$!
bundle=/tmp/systemd-bundle
end() {
    kill -9 "$outer" 2>/dev/null || true
    wait "$outer" 2>/dev/null || true
    echo 1 >"$top/cgroup.kill" 2>/dev/null || true
    for _ in $(seq 50); do
        find "$top" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -e "$top" ] || break
        sleep 0.1
    done
    rm -rf "$bundle" /tmp/boot-systemd
}
trap end EXIT
init=
for _ in $(seq 200); do
    init=$(pgrep -x systemd || true)
    [ -n "$init" ] && [ -S "/proc/$init/root/run/systemd/private" ] && break
    sleep 0.1
done
[ -n "$init" ] || fail 'systemd did not start'
# Controllers cannot be given on from a group with processes of its own.
for pid in $(cat "$top/cgroup.procs"); do
    [ "$pid" = "$init" ] || echo "$pid" >/sys/fs/cgroup/cgroup.procs
done
inside() { nsenter -t "$init" -m -p -C -i -u -- "$@"; }
runtime() { inside gantry-runtime --systemd-cgroup --root /run/gantry-runtime "$@"; }

mkdir -p "$bundle/rootfs"
tar -xf /payload/fixtures/busybox.tar -C "$bundle/rootfs"
(cd "$bundle" && gantry-runtime spec)
cp "$bundle/config.json" "$bundle/config.plain"
jq '.process.terminal = false | .process.args = ["sleep", "1000"]
    | .linux.cgroupsPath = "test-a.slice:pre:one"
    | .annotations["org.systemd.property.CollectMode"] = "'"'"'inactive-or-failed'"'"'"
    | .linux.resources += {"memory": {"limit": 67108864, "swap": 67108864},
        "cpu": {"shares": 512, "quota": 20000, "period": 50000, "cpus": "1"},
        "pids": {"limit": 7}, "unified": {"memory.high": "62914560"}}' \
    <"$bundle/config.plain" >"$bundle/config.json"
runtime run -d -b "$bundle" one >/dev/null 2>&1 </dev/null
unit=pre-one.scope
group=$top/test.slice/test-a.slice/$unit
[ -d "$group" ] || fail "no group $group: $(find "$top" -name '*.scope')"
for pair in memory.max=67108864 memory.swap.max=0 memory.high=62914560 cpu.weight=59 \
    'cpu.max=20000 50000' cpuset.cpus=1 pids.max=7; do
    equal "${pair%%=*}" "${pair#*=}" "$(cat "$group/${pair%%=*}")"
done
equal 'processes in the scope' 1 "$(wc -l <"$group/cgroup.procs")"
expected='ActiveState=active Slice=test-a.slice Delegate=yes MemoryMax=67108864
    MemoryHigh=62914560 CPUWeight=59 CPUQuotaPerSecUSec=400ms TasksMax=7 AllowedCPUs=1
    DevicePolicy=strict CollectMode=inactive-or-failed'
shown=$(inside systemctl show "$unit")
for pair in $expected; do
    grep -qx "$pair" <<<"$shown" || fail "$pair: $(grep "^${pair%%=*}=" <<<"$shown")"
done
# What systemd knows it keeps when it writes everything anew.
runtime update --memory 134217728 --memory-swap 134217728 --pids-limit 9 one
inside systemctl daemon-reload
equal 'memory.max after a reload' 134217728 "$(cat "$group/memory.max")"
equal 'pids.max after a reload' 9 "$(cat "$group/pids.max")"
equal TasksMax 9 "$(inside systemctl show --value -p TasksMax "$unit")"
runtime pause one
equal frozen 1 "$(sed -n 's/^frozen //p' "$group/cgroup.events")"
runtime resume one
equal 'exec is in the scope' "0::/test.slice/test-a.slice/$unit" \
    "$(runtime exec one cat /proc/self/cgroup | sed 's|^0::/$|0::/test.slice/test-a.slice/'$unit'|')"
runtime delete -f one
[ ! -e "$group" ] || fail 'the scope is left'
equal 'units that are left' '' "$(inside systemctl list-units --all --plain --no-legend "$unit")"
# The name is free again, at once.
runtime run -d -b "$bundle" one >/dev/null 2>&1 </dev/null
runtime delete -f one
