#pragma once

#include <string>

namespace perrin::launch {

/// What `perrin --version` prints: perrin and the libraries it runs with, one a line. Starts nothing.
std::string versions();

}  // namespace perrin::launch
