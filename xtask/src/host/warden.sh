# Ends a hermetic host when its owner is gone, however that happened: the owner holds the other end of
# stdin, which the kernel closes even after SIGKILL.
#
#   warden.sh hold  NAME DIRECTORY WORLD CGROUP2 [CGROUP1...]   make the namespaces, wait for the end, clean
#   warden.sh clean NAME DIRECTORY -     CGROUP2 [CGROUP1...]   clean what a dead warden left
set -u
# A terminal's Ctrl-C is the owner's affair; so is a hang-up. Nobody may be left to read what goes wrong.
trap '' INT TERM HUP PIPE
exec 2>&1

mode=$1 name=$2 directory=$3 world=$4
shift 4
cgroup=$1/$name

make_cgroups() {
    # Containers get groups of their own below this one, and a group that hands controllers down may hold no
    # process itself: whatever is no container lives in the leaves.
    mkdir -p "$cgroup/host" "$cgroup/engine" "$directory"
}

hold() {
    make_cgroups || return
    # Not in a subshell: $! has to be the process that enters the namespaces.
    unshare --net --mount --propagation private -- sh -euc '
        cgroup=$1 directory=$2 world=$3
        echo $$ >"$cgroup/host/cgroup.procs"
        ip link set lo up
        if [ "$world" = hybrid ]; then
            mkdir "$directory/cgroup"
            mount --rbind /sys/fs/cgroup "$directory/cgroup"
        fi
        # sysfs shows the interfaces of the namespace it was mounted in.
        mount -t sysfs sysfs /sys
        if [ "$world" = hybrid ]; then
            mount --rbind "$directory/cgroup" /sys/fs/cgroup
            umount -l "$directory/cgroup"
        else
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
        fi
        mount -t bpf bpf /sys/fs/bpf
        [ ! -d /sys/kernel/tracing ] || mount -t tracefs tracefs /sys/kernel/tracing
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir -p /run/lock
        [ /var/run -ef /run ] || mount --bind /run /var/run
        # Engines write a key to the one and containerd a directory to the other, unasked. A kernel without
        # overlayfs can do without: that much then stays.
        for place in etc opt; do
            mkdir -p "/run/written/$place" "/run/work/$place"
            mount -t overlay -o "lowerdir=/$place,upperdir=/run/written/$place,workdir=/run/work/$place" \
                overlay "/$place" || :
        done
        # As on a booted machine; Docker refuses an rslave volume of anything private.
        mount --make-rshared /
        echo "ready $$"
        exec sleep infinity >/dev/null 2>&1
    ' warden "$cgroup" "$directory" "$world" </dev/null &
    # The owner reads until it knows enough; what it writes means nothing, only that it ends.
    while read -r _; do :; done
}

processes() {
    find "$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null
}

clean() {
    tries=0
    while pids=$(processes); [ -n "$pids" ] && [ $tries -lt 500 ]; do
        # Some have gone in the meantime.
        kill -KILL $pids 2>/dev/null
        tries=$((tries + 1))
        sleep 0.02
    done
    for hierarchy in "$@"; do
        tries=0
        # The kernel lets go of a group a moment after its last process.
        while [ -d "$hierarchy/$name" ] && [ $tries -lt 100 ]; do
            find "$hierarchy/$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
            tries=$((tries + 1))
            sleep 0.02
        done
    done
    rm -rf "$directory"
}

[ "$mode" = clean ] || hold
clean "$@"
