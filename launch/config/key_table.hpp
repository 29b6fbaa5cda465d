#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launch/config/key.hpp"

namespace perrin::launch {

/// A section of the configuration file.
struct Section {
  std::string name;
  std::string documentation;  ///< one line
};

/// All sections, in the order of the documentation and of the resolved configuration.
const std::vector<Section>& section_table();

/// All keys, grouped by section in the order of section_table(). The reader, the resolved configuration, the rules of
/// resuming and docs/configuration.md are all made from this one table.
const std::vector<Key>& key_table();

/// The key called "section.key", or nullptr.
const Key* find_key(std::string_view name);

}  // namespace perrin::launch
