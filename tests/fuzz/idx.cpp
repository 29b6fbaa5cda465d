#include "data/source/idx.hpp"

#include <algorithm>

#include "tests/fuzz/input.hpp"
#include "tests/fuzz/read_all.hpp"

using namespace perrin;

/// The first byte says how long the file of labels is, which follows; the rest is that of images.
int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile images("images.idx"), labels("labels.idx");
  if (size == 0) return 0;
  const fuzz::Bytes rest(bytes + 1, size - 1);
  const std::size_t label_bytes = std::min<std::size_t>(bytes[0], rest.size());
  return fuzz::understand_or_refuse([&] {
    fuzz::read_all(
        *data::read_idx_pair(images.write(rest.subspan(label_bytes)), labels.write(rest.first(label_bytes))));
  });
}
