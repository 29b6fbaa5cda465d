#pragma once

#include <memory>

#include "comm/communicator.hpp"

namespace perrin::comm {

/// Collectives in device memory over NCCL ("nccl"), among the ranks of `control`, each on its own device. bfloat16 sums
/// are NCCL's own: a ring or a tree rounds at every hop. Collective.
/// @param control  host communicator that carries the unique id
/// @throws CommError if NCCL is not built in, headers and library differ, or the communicator does not come up within
/// options.deadline
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& control, int device,
                                                     const CommunicatorOptions& options);

}  // namespace perrin::comm
