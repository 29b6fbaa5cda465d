#pragma once

#include <string>

namespace perrin::launch {

/// perrin and the libraries it runs with. Starts nothing.
/// @param separator  between them: `perrin --version` prints one a line
std::string versions(const std::string& separator = "\n");

}  // namespace perrin::launch
