#include "launch/config/reference.hpp"

#include "launch/config/key_table.hpp"

namespace perrin::launch {
namespace {

std::string accepted(const Key& key) {
  switch (key.type) {
    case KeyType::boolean:
      return "`true` or `false`";
    case KeyType::text:
      return key.may_be_empty ? "string" : "string, not empty";
    case KeyType::choice: {
      std::string text;
      for (const std::string& choice : key.choices) text += (text.empty() ? "`\"" : ", `\"") + choice + "\"`";
      return text;
    }
    default:
      break;
  }
  std::string text(describe(key.type));
  text.erase(0, text.find(' ') + 1);  // the article
  if (!key.may_be_empty) text += ", not empty";
  const std::string range = to_string(key.range);
  if (range.empty()) return text;
  const bool is_list = key.type == KeyType::integers || key.type == KeyType::numbers;
  return text + (is_list ? ", each " : ", ") + range;
}

}  // namespace

std::string configuration_reference() {
  std::string text =
      "# Configuration\n"
      "\n"
      "<!-- Made from launch/config/key_table.cpp by `cmake --build BUILD --target configuration_docs`; do not edit. "
      "-->\n"
      "\n"
      "`perrin train CONFIG.toml` reads a TOML file with the sections below. A key that the file leaves out has its "
      "default; an\n"
      "unknown key, a wrong type or a value out of range is an error that names file, line and the nearest valid "
      "name.\n"
      "`--section.key=value` on the command line overrides the file, for example `--optimizer.lr=1e-4` or\n"
      "`--ema.decays=[0.99,0.999]`. `perrin train CONFIG.toml --dry-run` prints the result and starts nothing.\n"
      "\n"
      "The resolved configuration is stored as `config.toml` in the folder of the run. The same command goes on with "
      "an existing\n"
      "run; the last column says which keys may then have another value. A change of any other is refused.\n";
  const trainer::Config defaults;
  for (const Section& section : section_table()) {
    text += "\n## [" + section.name + "]\n\n" + section.documentation + "\n\n";
    text += "| Key | Accepts | Default | Meaning | On resume |\n|---|---|---|---|---|\n";
    for (const Key& key : key_table()) {
      if (key.section() != section.name) continue;
      text += "| `" + std::string(key.leaf()) + "` | " + accepted(key) + " | `" + to_toml(key.get(defaults)) + "` | " +
              key.documentation + " | " + (key.may_change_on_resume ? "may change" : "fixed") + " |\n";
    }
  }
  return text;
}

}  // namespace perrin::launch
