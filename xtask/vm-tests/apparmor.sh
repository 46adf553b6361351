# process.apparmorProfile: a profile confines the first process and an exec, also after
# no-new-privileges, and one that is not loaded is an error. R19,
# CVE-2025-52881: the label reaches the process.
mounted=
if ! mountpoint -q /sys/kernel/security; then
    mount -t securityfs securityfs /sys/kernel/security
    mounted=yes
fi
[ -d /sys/kernel/security/apparmor ] || fail 'this kernel has no AppArmor'
profile=/tmp/apparmor-profile
cat >"$profile" <<'EOF'
profile gantry-test flags=(attach_disconnected,mediate_deleted) {
    file,
    capability,
    network,
    mount,
    umount,
    signal,
    ptrace,
    deny /forbidden rw,
}
EOF
apparmor_parser --replace --skip-cache "$profile"
bundle=/tmp/apparmor-bundle
mkdir -p "$bundle/rootfs"
trap 'apparmor_parser --remove "$profile" || true
    gantry-runtime delete --force confined 2>/dev/null || true
    [ -z "$mounted" ] || umount /sys/kernel/security
    rm -rf "$bundle" "$profile"' EXIT
tar -xf /payload/fixtures/busybox.tar -C "$bundle/rootfs"
echo secret >"$bundle/rootfs/forbidden"
cd "$bundle"
gantry-runtime spec

# configure FILTER: config.json changed by jq.
configure() {
    jq --arg look "$look" "$1" original.json >config.json
}

mv config.json original.json
look='cat /proc/self/attr/current; cat /forbidden 2>&1 | grep -o "Permission denied"'
for privileges in true false; do
    configure ".process.terminal = false | .process.noNewPrivileges = $privileges |
        .process.apparmorProfile = \"gantry-test\" | .process.args = [\"sh\", \"-c\", \$look]"
    equal "label with noNewPrivileges $privileges" \
        'gantry-test (enforce) Permission denied' \
        "$(gantry-runtime run confined </dev/null | tr '\n' ' ' | sed 's/ $//')"
done

configure '.process.terminal = false | .process.apparmorProfile = "gantry-test" |
    .process.args = ["sleep", "1000"]'
gantry-runtime create confined </dev/null
gantry-runtime start confined
first=$(gantry-runtime state confined | jq .pid)
equal 'label of the first process' 'gantry-test (enforce)' "$(cat "/proc/$first/attr/current")"
equal 'label of an exec' 'gantry-test (enforce)' \
    "$(gantry-runtime exec confined cat /proc/self/attr/current)"
gantry-runtime delete --force confined

configure '.process.terminal = false | .process.apparmorProfile = "not-loaded" |
    .process.args = ["true"]'
try gantry-runtime run confined </dev/null
[ "$status" != 0 ] || fail 'it ran without its profile'
grep -q 'process.apparmorProfile "not-loaded"' <<<"$output" || fail "error: $output"
