#pragma once

#include <string>

namespace perrin::launch {

/// docs/configuration.md, made from the key table.
std::string configuration_reference();

}  // namespace perrin::launch
