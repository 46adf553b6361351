# Networks on links of the host: macvlan on a VLAN that is made and removed with the network, and
# ipvlan in its three modes. Another network namespace is the host on the other side.
import_image
ip netns add outside
ip link add near type veth peer name far netns outside
ip link set near up
ip -n outside link set lo up
ip -n outside link set far up
ip -n outside addr add 10.60.0.1/24 dev far
ip -n outside link add far.30 link far type vlan id 30
ip -n outside link set far.30 up
ip -n outside addr add 10.61.0.1/24 dev far.30

# A VLAN's parent is made with the network, carries its frames, and goes with the network.
gantry network create -d macvlan -o parent=near.30 --subnet 10.61.0.0/24 --gateway 10.61.0.1 vlan
ip -d link show near.30 | grep -q 'vlan protocol 802.1Q id 30'
gantry run -d --name one --network vlan "$IMAGE" sleep 60
gantry run --rm --network vlan "$IMAGE" sh -c 'ping -c1 -W2 10.61.0.1 && ping -c1 -W2 one'
ip netns exec outside ping -c1 -W2 "$(gantry inspect -f '{{.NetworkSettings.Networks.vlan.IPAddress}}' one)"
gantry rm -f one
gantry network rm vlan
if ip link show near.30 2>/dev/null; then
    echo 'the VLAN link outlived its network'
    exit 1
fi

# A parent that was there stays.
ip link add near.31 link near type vlan id 31
gantry network create -d macvlan -o parent=near.31 --subnet 10.62.0.0/24 kept
gantry network rm kept
ip link show near.31 >/dev/null
ip link del near.31

for mode in l2 l3 l3s; do
    gantry network create -d ipvlan -o parent=near -o ipvlan_mode=$mode \
        --subnet 10.60.0.0/24 --gateway 10.60.0.1 ipvlan-$mode
    gantry run -d --name two --network ipvlan-$mode "$IMAGE" sleep 60
    # Layer 3 modes do not answer ARP: the other side is told the way.
    address=$(gantry inspect -f "{{(index .NetworkSettings.Networks \"ipvlan-$mode\").IPAddress}}" two)
    if [ $mode != l2 ]; then
        mac=$(cat /sys/class/net/near/address)
        ip -n outside neigh replace "$address" lladdr "$mac" dev far
    fi
    ip netns exec outside ping -c1 -W2 "$address"
    gantry run --rm --network ipvlan-$mode "$IMAGE" ping -c1 -W2 two
    gantry rm -f two
    gantry network rm ipvlan-$mode
done
ip link del near
ip netns del outside
# What iproute2 keeps of its namespaces.
umount /run/netns
rmdir /run/netns
