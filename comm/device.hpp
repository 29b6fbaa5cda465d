#pragma once

#include <optional>
#include <string>
#include <vector>

namespace perrin::comm {

/// Where the gradients of a run live. automatic: on GPUs where there are any.
enum class DeviceChoice { automatic, cpu, cuda };

/// GPUs that this process sees; 0 without a driver (CUDA error 35), without a GPU, and in builds without CUDA.
/// @throws CommError if the CUDA runtime fails in another way
int device_count();

/// True if this build has the CUDA device path and the NCCL backend.
bool built_with_cuda() noexcept;

/// PCI bus id of a visible device, "0000:65:00.0". @throws CommError if the CUDA runtime refuses
std::string device_bus_id(int device);

/// cudaSetDevice for the calling thread. @throws CommError if the CUDA runtime refuses
void make_device_current(int device);

/// "CUDA runtime 13.0, driver 13.0, NCCL 2.28.9"; empty in builds without CUDA.
std::string device_versions();

/// Whether several ranks may have one GPU. They may for tests on a machine with fewer GPUs than ranks: NCCL then takes
/// every rank for a node of its own and talks through sockets, so that speeds mean nothing.
enum class DeviceSharing { refused, allowed };

/// Sets the environment from which NCCL 2.28 and 2.29, once before their first call, learn that this rank may share its
/// GPU. (They compare NCCL_HOSTID and PCI bus id in init.cc; the rest keeps them from looking for a fabric between
/// "nodes" that are one.)
/// @param one_node  all ranks are on this node, so that the loopback interface reaches them
void let_nccl_share_devices(int rank, bool one_node);

/// The device of a rank: the only visible one, else the one numbered like the node-local rank (Slurm binding by task
/// leaves each task one device, called 0), where they are shared in turns.
/// @return nullopt if there is none for this rank
std::optional<int> device_of_rank(int visible_devices, int local_rank,
                                  DeviceSharing sharing = DeviceSharing::refused) noexcept;

/// Names the ranks that share a GPU.
/// @param hosts, bus_ids  one entry for each rank; an empty bus id is a rank without a device
/// @return one sentence with host, bus id, ranks and the fix; empty if every GPU has one rank
std::string describe_shared_devices(const std::vector<std::string>& hosts, const std::vector<std::string>& bus_ids);

}  // namespace perrin::comm
