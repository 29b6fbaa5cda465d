#pragma once

#include "comm/world.hpp"

namespace perrin::test {

/// The ranks that run this binary; made by mpi_main.cpp before the first test.
comm::World& world();

}  // namespace perrin::test
