#pragma once

#include <cstddef>
#include <memory>

#include "comm/communicator.hpp"

namespace perrin::comm::test {

// The backend that a test binary is about: host_backend.cpp or nccl_backend.cpp is linked to it.

/// A communicator of all ranks. Collective.
std::unique_ptr<Communicator> make_communicator(const CommunicatorOptions& options);

/// Memory of the kind that its collectives take, which the host sees too.
std::shared_ptr<std::byte> allocate(std::size_t bytes);

/// True if elements must lie at multiples of their size, as on a GPU.
bool aligns_elements();

}  // namespace perrin::comm::test
