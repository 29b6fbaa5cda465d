#pragma once

#include <string>

#include "comm/communicator.hpp"

namespace perrin::trainer {

/// Compares a text (a hash, say) over all ranks. Collective.
/// @param what named in the error: "the parameters", "the configuration", ...
/// @param remedy what the user can do about a difference
/// @throws comm::CommError on every rank, naming the ranks whose text differs from rank 0's
void require_same_on_all_ranks(
    comm::Communicator& control, const std::string& text, const std::string& what,
    const std::string& remedy = "start every rank with the same program, configuration and files");

}  // namespace perrin::trainer
