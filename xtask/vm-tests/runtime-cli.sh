# gantry-runtime through the states of a container, on cgroup v2 alone.
make_bundle
configure '{}' sleep 1000
gantry-runtime create -b "$BUNDLE" one >/dev/null 2>&1 </dev/null
equal 'status after create' created "$(gantry-runtime state one | jq -r .status)"
gantry-runtime start one
equal 'status after start' running "$(gantry-runtime state one | jq -r .status)"
equal 'output of exec' inside "$(gantry-runtime exec one echo inside </dev/null)"
try gantry-runtime exec one sh -c 'exit 4'
equal 'exit status of exec' 4 "$status"

gantry-runtime pause one
equal 'status after pause' paused "$(gantry-runtime state one | jq -r .status)"
try gantry-runtime exec one true
equal 'exit status of exec in a paused container' 255 "$status"
gantry-runtime resume one
equal 'status after resume' running "$(gantry-runtime state one | jq -r .status)"

gantry-runtime update --memory 64m --pids-limit 20 --cpu-quota 50000 --cpu-period 100000 one
equal memory.max 67108864 "$(cat "$GROUP/memory.max")"
equal pids.max 20 "$(cat "$GROUP/pids.max")"
equal cpu.max '50000 100000' "$(cat "$GROUP/cpu.max")"
stats=$(gantry-runtime events --stats one)
equal 'limit in events' 67108864 "$(jq .data.memory.usage.limit <<<"$stats")"
equal 'tasks in events' 1 "$(jq .data.pids.current <<<"$stats")"
equal 'processes of ps' 1 "$(gantry-runtime ps --format json one | jq length)"

# A group inside, as exec --cgroup enters it.
mkdir "$GROUP/inner"
gantry-runtime exec -d --cgroup inner one sleep 500 >/dev/null 2>&1 </dev/null
equal 'processes of the inner group' 1 "$(wc -l <"$GROUP/inner/cgroup.procs")"

gantry-runtime kill one KILL
for _ in $(seq 50); do
    [ "$(gantry-runtime state one | jq -r .status)" = stopped ] && break
    sleep 0.1
done
equal 'status after kill' stopped "$(gantry-runtime state one | jq -r .status)"
end_bundle one
