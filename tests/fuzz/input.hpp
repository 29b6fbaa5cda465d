#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "data/data_error.hpp"

namespace perrin::fuzz {

using Bytes = std::span<const std::uint8_t>;

/// A file in memory with one input; the next input takes its place. Removed at the end of the process.
class InputFile {
 public:
  explicit InputFile(const std::string& name)
      : path_("/dev/shm/perrin-fuzz-" + std::to_string(::getpid()) + "-" + name) {}
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() { std::filesystem::remove(path_); }

  const std::filesystem::path& write(Bytes bytes) const {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path_;
  }

 private:
  std::filesystem::path path_;
};

/// What a parser may do with an input: understand it or refuse it by a DataError. All else that is thrown ends the
/// process, and is a finding.
template <class Parse>
int understand_or_refuse(const Parse& parse) {
  try {
    parse();
  } catch (const data::DataError&) {
  }
  return 0;
}

}  // namespace perrin::fuzz

/// What libFuzzer calls with every input.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);
