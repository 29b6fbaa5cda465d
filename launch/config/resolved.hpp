#pragma once

#include <string>

#include "trainer/config.hpp"

namespace perrin::launch {

/// The configuration as canonical TOML: every key, in the order of the table, numbers as the shortest text that reads
/// back to the same bits. It is stored with the run; read_config_text gives the same configuration again.
std::string resolved_toml(const trainer::Config& config);

}  // namespace perrin::launch
