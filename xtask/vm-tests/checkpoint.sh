# gantry-runtime through criu, which does not run on every developer's kernel: a program
# that counts goes on where it was.
make_bundle
make_images

# The number lives in the shell's memory only; what it writes is for us.
configure '{}' sh -c \
    'n=0; while :; do n=$((n + 1)); echo "$n $$" >>/data/now; sleep 0.05; done'
jq --arg data "$DATA" '.mounts += [{destination: "/data", type: "bind", source: $data,
    options: ["bind", "rw"]}]' <"$BUNDLE/config.json" >"$BUNDLE/config.new"
mv "$BUNDLE/config.new" "$BUNDLE/config.json"

now() { tail -n 1 "$DATA/now" | cut -d ' ' -f 1; }

gantry-runtime run -d -b "$BUNDLE" one >/dev/null 2>&1 </dev/null
counts_on 5

# It goes on where it is told to.
by_criu checkpoint --leave-running --image-path "$IMAGES/running" --work-path "$IMAGES/w1" one
equal 'status of what was left running' running "$(status_of one)"
counts_on "$(now)"

# And is gone otherwise, group included.
by_criu checkpoint --image-path "$IMAGES/full" --work-path "$IMAGES/w2" one
try gantry-runtime state one
equal 'exit status of state after a checkpoint' 1 "$status"
[ ! -e "$GROUP" ] || fail 'the group is left after a checkpoint'
last=$(now)
sleep 0.3
equal 'the counter of nobody' "$last" "$(now)"

# Not by_criu, whose pipe the restored process would keep open.
gantry-runtime restore -d -b "$BUNDLE" --image-path "$IMAGES/full" --work-path "$IMAGES/w3" \
    --pid-file "$IMAGES/pid" one >/dev/null 2>"$IMAGES/err" </dev/null ||
    fail "restore: $(cat "$IMAGES/err")"
counts_on "$last"
# Not begun anew, and the same process in its namespace.
[ "$(now)" -lt $((last + 200)) ] || fail "from $last to $(now)"
equal 'the process of the counter' 1 "$(tail -n 1 "$DATA/now" | cut -d ' ' -f 2)"
equal 'status of the restored' running "$(status_of one)"
equal 'pid file' "$(cat "$IMAGES/pid")" "$(gantry-runtime state one | jq -r .pid)"
equal 'output of exec in the restored' inside "$(gantry-runtime exec one echo inside </dev/null)"
grep -q "^$(cat "$IMAGES/pid")$" "$GROUP/cgroup.procs" || fail 'it is not in its group'
end_bundle one
