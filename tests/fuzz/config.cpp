#include "launch/config/read.hpp"
#include "tests/fuzz/input.hpp"

using namespace perrin;

int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  try {
    static_cast<void>(launch::read_config_text({reinterpret_cast<const char*>(bytes), size}, "input.toml"));
  } catch (const launch::ConfigError&) {
  }
  return 0;
}
