# shellcheck shell=bash disable=SC2034 # the variables are for those who source this file
# How this allocation starts its ranks: sets perrin (the program), launcher (what starts it in every task) and device.
# Sourced by the batch scripts after `set -euo pipefail`; `perrin submit` prints it as a part of train.sbatch.

refuse() {
  echo "error: $*" >&2
  exit 64  # a wrong command line, as perrin has it
}

[[ -n "${SLURM_NTASKS:-}" ]] || refuse "ask for --ntasks or --ntasks-per-node: one task becomes one rank"
# mpirun starts one Slurm task on each node, whose ranks would share that task's one GPU; srun would hide a rank's GPU from its neighbours.
[[ -z "${SLURM_GPUS_PER_TASK:-}" ]] || refuse "--gpus-per-task gives several ranks the same GPU; ask for --gpus-per-node instead"

device=cpu
preset=cpu
if [[ -n "${SLURM_GPUS_ON_NODE:-}" ]]; then
  device=cuda
  preset=cuda
fi
perrin="${PERRIN_BINARY:-build/$preset/launch/perrin}"
[[ -x "$perrin" ]] || refuse "no program at $perrin in $PWD; build it (cmake --preset $preset && ninja -C build/$preset), or set PERRIN_BINARY"

# The network for MPI and NCCL, where the first one found is the wrong one: sbatch --export=ALL,PERRIN_INTERFACE=ib0 ...
if [[ -n "${PERRIN_INTERFACE:-}" ]]; then
  export OMPI_MCA_btl_tcp_if_include="$PERRIN_INTERFACE" OMPI_MCA_oob_tcp_if_include="$PERRIN_INTERFACE"
  export NCCL_SOCKET_IFNAME="$PERRIN_INTERFACE"
fi
# Threads that spin while they wait take the cores from those that compute.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}" OMP_WAIT_POLICY=passive

case "${PERRIN_LAUNCHER:-mpirun}" in
  # Takes the nodes from the allocation; -x hands a variable to the ranks on other nodes. A rank bound to one core starves its loader.
  mpirun) launcher=(mpirun -np "$SLURM_NTASKS" --bind-to none -x OMP_WAIT_POLICY -x NCCL_DEBUG ${PERRIN_INTERFACE:+-x NCCL_SOCKET_IFNAME}) ;;
  # Without --mpi=pmix every task would be a run of its own. Since Slurm 22.05 a step does not inherit --cpus-per-task.
  srun) launcher=(srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}") ;;
  *) refuse "PERRIN_LAUNCHER is mpirun or srun, not '$PERRIN_LAUNCHER'" ;;
esac
