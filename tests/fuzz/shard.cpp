#include <vector>

#include "data/shard_reader.hpp"
#include "tests/fuzz/input.hpp"

using namespace perrin;

/// A shard without its manifest, as `perrin inspect` opens it.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file("shard.h5");
  return fuzz::understand_or_refuse([&] {
    const data::ShardReader shard(file.write({bytes, size}));
    std::vector<std::uint8_t> pixels(shard.shape().bytes());
    for (std::uint64_t i = 0; i < shard.size(); ++i) {
      shard.read(i, 1, pixels);
      static_cast<void>(shard.label(i));
      static_cast<void>(shard.source_id(i));
    }
  });
}
