#include "launch/config/resolved.hpp"

#include "launch/config/key_table.hpp"

namespace perrin::launch {

std::string resolved_toml(const trainer::Config& config) {
  std::string text;
  for (const Section& section : section_table()) {
    text += (text.empty() ? "[" : "\n[") + section.name + "]\n";
    for (const Key& key : key_table()) {
      if (key.section() == section.name) text += std::string(key.leaf()) + " = " + to_toml(key.get(config)) + "\n";
    }
  }
  return text;
}

}  // namespace perrin::launch
