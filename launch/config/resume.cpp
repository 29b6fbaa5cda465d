#include "launch/config/resume.hpp"

#include "launch/config/key_table.hpp"

namespace perrin::launch {

std::vector<KeyChange> changes_refused_on_resume(const trainer::Config& before, const trainer::Config& after) {
  std::vector<KeyChange> changes;
  for (const Key& key : key_table()) {
    if (key.may_change_on_resume) continue;
    const std::string old_value = to_toml(key.get(before));
    const std::string new_value = to_toml(key.get(after));
    if (old_value != new_value) changes.push_back({key.name, old_value, new_value});
  }
  return changes;
}

void refuse_changes_on_resume(const trainer::Config& before, const trainer::Config& after,
                              const std::filesystem::path& stored) {
  const std::vector<KeyChange> changes = changes_refused_on_resume(before, after);
  if (changes.empty()) return;
  std::string message = "the run was started with other values:\n";
  for (const KeyChange& change : changes) {
    message += "  " + change.name + ": was " + change.before + ", now " + change.after + "\n";
  }
  message +=
      "Keep the old values, or start a new run with another run.directory. These may change when a run goes on:\n ";
  std::size_t column = 1;
  for (const Key& key : key_table()) {
    if (!key.may_change_on_resume) continue;
    if (column + key.name.size() + 1 > 110) {
      message += "\n ";
      column = 1;
    }
    message += " " + key.name;
    column += key.name.size() + 1;
  }
  throw ConfigError(stored.string(), changes.front().name, message);
}

}  // namespace perrin::launch
