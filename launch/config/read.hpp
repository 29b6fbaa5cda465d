#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/config_error.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// One dotted override of the command line, `--optimizer.lr=1e-4`.
struct Override {
  std::string name;   ///< "optimizer.lr"
  std::string value;  ///< as TOML writes it; quotes around a string may be left out
};

/// Reads a configuration from TOML, then the overrides in their order; keys that neither names keep their defaults.
/// @param place  what error messages call the text: its file name
/// @throws ConfigError with file and line (or "command line") for text that is not TOML, an unknown section or key
/// (with the
///         nearest valid name), a value of the wrong type or out of range, and values that do not fit together
trainer::Config read_config_text(std::string_view toml, const std::string& place,
                                 const std::vector<Override>& overrides = {});

/// The same from a file. @throws ConfigError also where the file cannot be read
trainer::Config read_config(const std::filesystem::path& file, const std::vector<Override>& overrides = {});

/// Takes the dotted overrides (`--a.b=value` and `--a.b value`) out of a command line and leaves the other arguments.
/// @throws ConfigError for an override without a value
std::vector<Override> take_overrides(std::vector<std::string>& arguments);

}  // namespace perrin::launch
