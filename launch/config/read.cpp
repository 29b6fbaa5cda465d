#include "launch/config/read.hpp"

#include <toml++/toml.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "launch/config/check.hpp"
#include "launch/config/key_table.hpp"
#include "launch/config/nearest_name.hpp"

namespace perrin::launch {
namespace {

const std::string kCommandLine = "command line";

std::vector<std::string> key_names() {
  std::vector<std::string> names;
  for (const Key& key : key_table()) names.push_back(key.name);
  return names;
}

std::vector<std::string> section_names() {
  std::vector<std::string> names;
  for (const Section& section : section_table()) names.push_back(section.name);
  return names;
}

bool is_section(std::string_view name) {
  for (const Section& section : section_table()) {
    if (section.name == name) return true;
  }
  return false;
}

std::string list_of(const std::vector<std::string>& names, std::string_view quote) {
  std::string text;
  for (const std::string& name : names) {
    text.append(text.empty() ? "" : ", ").append(quote).append(name).append(quote);
  }
  return text;
}

/// "unknown key 'x'; did you mean 'y'?", or the names there are where none is near.
std::string unknown_key(const std::string& name) {
  std::string message = "unknown key '" + name + "'";
  if (const std::string nearest = nearest_name(name, key_names()); !nearest.empty()) {
    return message + "; did you mean '" + nearest + "'?";
  }
  const std::string section = name.substr(0, name.find('.'));
  if (!is_section(section)) return message + "; the sections are " + list_of(section_names(), "");
  std::vector<std::string> leaves;
  for (const Key& key : key_table()) {
    if (key.section() == section) leaves.emplace_back(key.leaf());
  }
  return message + "; the keys of [" + section + "] are " + list_of(leaves, "");
}

/// What an error message says was found instead.
std::string found(const toml::node& node) {
  if (const auto* value = node.as_string()) return "the string " + to_toml(Value(value->get()));
  if (const auto* value = node.as_integer()) return "the integer " + to_toml(Value(value->get()));
  if (const auto* value = node.as_floating_point()) {
    // 1e5 is what people write for a count; TOML calls it floating-point.
    const double number = value->get();
    std::string text = "the floating-point number " + to_toml(Value(number));
    if (number == std::floor(number) && std::abs(number) < 1e15) {
      text += " (as an integer: " + std::to_string(static_cast<std::int64_t>(number)) + ")";
    }
    return text;
  }
  if (const auto* value = node.as_boolean()) return "the boolean " + to_toml(Value(value->get()));
  if (node.is_array()) return "an array";
  if (node.is_table()) return "a table";
  return "a date or time";
}

/// Puts values into a configuration, each checked, and remembers where each came from.
class Assembly {
 public:
  void set(const Key& key, const toml::node& node, const std::string& place) {
    key.set(config_, value_of(key, node, place));
    places_[key.name] = place;
  }

  trainer::Config finish(const std::string& place) const {
    check_consistency(config_, [&](std::string_view key) {
      const auto found = places_.find(key);
      return found == places_.end() ? place : found->second;
    });
    return config_;
  }

 private:
  [[noreturn]] static void refuse(const Key& key, const std::string& place, const std::string& message) {
    throw ConfigError(place, key.name, "'" + key.name + "' " + message);
  }

  [[noreturn]] static void refuse_type(const Key& key, const toml::node& node, const std::string& place) {
    const std::string wanted =
        key.type == KeyType::choice ? "one of " + list_of(key.choices, "\"") : std::string(describe(key.type));
    refuse(key, place, "must be " + wanted + ", got " + found(node));
  }

  template <class Number>
  static void check_range(const Key& key, Number number, const std::string& place) {
    if (key.range.contains(static_cast<double>(number))) return;
    const std::string range = to_string(key.range);
    refuse(key, place, "must be " + (range.empty() ? "a finite number" : range) + ", got " + to_toml(Value(number)));
  }

  static std::int64_t integer_of(const Key& key, const toml::node& node, const std::string& place) {
    const auto* value = node.as_integer();
    if (value == nullptr) refuse_type(key, node, place);
    check_range(key, value->get(), place);
    return value->get();
  }

  static double number_of(const Key& key, const toml::node& node, const std::string& place) {
    double number = 0;
    if (const auto* integer = node.as_integer()) {
      number = static_cast<double>(integer->get());
    } else if (const auto* floating = node.as_floating_point()) {
      number = floating->get();
    } else {
      refuse_type(key, node, place);
    }
    check_range(key, number, place);
    return number;
  }

  static std::string text_of(const Key& key, const toml::node& node, const std::string& place) {
    const auto* value = node.as_string();
    if (value == nullptr) refuse_type(key, node, place);
    const std::string& text = value->get();
    if (text.empty() && !key.may_be_empty) refuse(key, place, "must not be empty");
    for (const char c : text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) refuse(key, place, "holds a control character");
    }
    return text;
  }

  static std::string choice_of(const Key& key, const toml::node& node, const std::string& place) {
    const auto* value = node.as_string();
    if (value == nullptr) refuse_type(key, node, place);
    const std::string& text = value->get();
    for (const std::string& choice : key.choices) {
      if (choice == text) return text;
    }
    const std::string nearest = nearest_name(text, key.choices);
    refuse(key, place,
           "must be one of " + list_of(key.choices, "\"") + ", got " + to_toml(Value(text)) +
               (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
  }

  template <class Entry>
  static std::vector<Entry> list_of_entries(const Key& key, const toml::node& node, const std::string& place,
                                            Entry (*entry_of)(const Key&, const toml::node&, const std::string&)) {
    const auto* array = node.as_array();
    if (array == nullptr) refuse_type(key, node, place);
    if (array->empty() && !key.may_be_empty) refuse(key, place, "must not be empty");
    std::vector<Entry> entries;
    for (const toml::node& entry : *array) entries.push_back(entry_of(key, entry, place));
    return entries;
  }

  static Value value_of(const Key& key, const toml::node& node, const std::string& place) {
    switch (key.type) {
      case KeyType::boolean:
        if (const auto* value = node.as_boolean()) return value->get();
        refuse_type(key, node, place);
      case KeyType::integer:
        return integer_of(key, node, place);
      case KeyType::number:
        return number_of(key, node, place);
      case KeyType::text:
        return text_of(key, node, place);
      case KeyType::choice:
        return choice_of(key, node, place);
      case KeyType::integers:
        return list_of_entries(key, node, place, &integer_of);
      case KeyType::numbers:
        return list_of_entries(key, node, place, &number_of);
    }
    throw std::logic_error("a key has no type");
  }

  trainer::Config config_;
  std::map<std::string, std::string, std::less<>> places_;
};

std::string at_line(const std::string& place, const toml::source_region& source) {
  return source.begin.line == 0 ? place : place + ":" + std::to_string(source.begin.line);
}

void read_section(Assembly& assembly, const std::string& section, const toml::table& table, const std::string& place) {
  for (const auto& [leaf, node] : table) {
    const std::string name = section + "." + std::string(leaf.str());
    const std::string where = at_line(place, leaf.source());
    const Key* key = find_key(name);
    if (key == nullptr) throw ConfigError(where, name, unknown_key(name));
    assembly.set(*key, node, where);
  }
}

void read_document(Assembly& assembly, std::string_view toml, const std::string& place) {
  try {
    const toml::table document = toml::parse(toml);
    for (const auto& [name, node] : document) {
      const std::string section(name.str());
      const std::string where = at_line(place, name.source());
      if (is_section(section)) {
        if (!node.is_table()) {
          throw ConfigError(where, section,
                            "'" + section + "' is a section: write [" + section + "], got " + found(node));
        }
        read_section(assembly, section, *node.as_table(), place);
      } else if (node.is_table()) {
        const std::string nearest = nearest_name(section, section_names());
        throw ConfigError(where, section,
                          "unknown section [" + section + "]; " +
                              (nearest.empty() ? "the sections are " + list_of(section_names(), "")
                                               : "did you mean [" + nearest + "]?"));
      } else {
        throw ConfigError(where, section, unknown_key(section));
      }
    }
  } catch (const toml::parse_error& error) {
    throw ConfigError(at_line(place, error.source()), "", "not valid TOML: " + std::string(error.description()));
  }
}

/// The value of an override as a TOML document with one entry. A string may come without its quotes: shells take them
/// away.
toml::table override_document(const Key& key, const Override& override) {
  const bool is_text = key.type == KeyType::text || key.type == KeyType::choice;
  const bool is_quoted = !override.value.empty() && (override.value.front() == '"' || override.value.front() == '\'');
  if (is_text && !is_quoted) {
    toml::table document;
    document.insert("value", override.value);
    return document;
  }
  try {
    toml::table document = toml::parse("value = " + override.value);
    if (document.size() == 1) return document;
  } catch (const toml::parse_error&) {  // said below, in the words of the key
  }
  throw ConfigError(kCommandLine, key.name,
                    "'" + key.name + "' must be " + std::string(describe(key.type)) + ", got '" + override.value + "'");
}

}  // namespace

trainer::Config read_config_text(std::string_view toml, const std::string& place,
                                 const std::vector<Override>& overrides) {
  Assembly assembly;
  read_document(assembly, toml, place);
  for (const Override& override : overrides) {
    const Key* key = find_key(override.name);
    if (key == nullptr) throw ConfigError(kCommandLine, override.name, unknown_key(override.name));
    const toml::table document = override_document(*key, override);
    assembly.set(*key, *document.get("value"), kCommandLine);
  }
  return assembly.finish(place);
}

trainer::Config read_config(const std::filesystem::path& file, const std::vector<Override>& overrides) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    throw ConfigError(file.string(), "", "is a folder; name the TOML file of the configuration");
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    throw ConfigError(file.string(), "", std::string("cannot read the configuration: ") + std::strerror(errno));
  }
  std::ostringstream text;
  text << stream.rdbuf();
  return read_config_text(text.str(), file.string(), overrides);
}

std::vector<Override> take_overrides(std::vector<std::string>& arguments) {
  std::vector<Override> overrides;
  std::vector<std::string> others;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const auto equals = argument.find('=');
    const std::string option = argument.substr(0, equals);
    // The program's own options have no dot in their names.
    if (!option.starts_with("--") || option.find('.') == std::string::npos) {
      others.push_back(argument);
      continue;
    }
    Override override{.name = option.substr(2), .value = {}};
    if (equals != std::string::npos) {
      override.value = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) {
      override.value = arguments[++i];
    } else {
      throw ConfigError(kCommandLine, override.name, "'" + option + "' needs a value: write " + option + "=VALUE");
    }
    overrides.push_back(std::move(override));
  }
  arguments = std::move(others);
  return overrides;
}

}  // namespace perrin::launch
