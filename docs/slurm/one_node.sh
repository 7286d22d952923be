#!/bin/bash
# A SLURM cluster of one node, this machine, for trying what is submitted to one.
#
#     sudo docs/slurm/one_node.sh start     install if needed, start munged, slurmctld and slurmd
#     sudo docs/slurm/one_node.sh stop      end slurmctld and slurmd; munged stays
#
# Debian or Ubuntu. No accounting, no cgroups, no systemd: daemons and their state are under
# SLURM_FOLDER (/tmp/slurm_one_node), and the configuration is a file there that SLURM_CONF names.
set -euo pipefail

folder=${SLURM_FOLDER:-/tmp/slurm_one_node}
export SLURM_CONF=$folder/slurm.conf

install_packages() {
    if command -v slurmctld slurmd munged sbatch >/dev/null; then
        return
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge
}

write_configuration() {
    # cons_tres hands out single CPUs, so that two tasks of one CPU run at once. linuxproc needs no
    # cgroups, which containers often lack. JobRequeue=1 lets `scontrol requeue` start a job again.
    cat >"$SLURM_CONF" <<CONF
ClusterName=one_node
SlurmctldHost=$(hostname)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
ReturnToService=2
KillWait=60
MpiDefault=none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$(hostname) CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

start() {
    install_packages
    mkdir -p "$folder"/{state,spool}
    write_configuration
    mkdir -p /run/munge
    chown munge: /run/munge /etc/munge/munge.key
    if ! pgrep -x munged >/dev/null; then
        runuser -u munge -- munged
    fi
    slurmctld
    slurmd
    for _ in $(seq 30); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then
            break
        fi
        sleep 1
    done
    sinfo
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    # By the ids that the daemons wrote: other clusters on this machine stay.
    for name in slurmd slurmctld; do
        if [[ -f $folder/$name.pid ]]; then
            kill "$(cat "$folder/$name.pid")" || true
        fi
    done
}

case ${1:-} in
start) start ;;
stop) stop ;;
*)
    echo "usage: $0 start | stop" >&2
    exit 2
    ;;
esac
