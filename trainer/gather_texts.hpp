#pragma once

#include <string>
#include <vector>

#include "comm/communicator.hpp"

namespace perrin::trainer {

/// The texts of all ranks, in rank order, on every rank. Collective. @throws comm::CommError
std::vector<std::string> gather_texts(comm::Communicator& control, const std::string& text);

}  // namespace perrin::trainer
