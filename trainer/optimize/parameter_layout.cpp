#include "trainer/optimize/parameter_layout.hpp"

#include <ATen/ATen.h>

#include <functional>
#include <numeric>
#include <sstream>

namespace perrin::trainer {

ParameterLayout::ParameterLayout(const std::vector<ParameterSpec>& specs, at::MemoryFormat convolutions)
    : convolutions_(convolutions) {
  ranges_.reserve(specs.size());
  for (const ParameterSpec& spec : specs) {
    const std::int64_t numel =
        std::accumulate(spec.shape.begin(), spec.shape.end(), std::int64_t{1}, std::multiplies<>{});
    ranges_.push_back({spec.name, spec.shape, size_, numel});
    size_ += (numel + kAlignment - 1) / kAlignment * kAlignment;
    numel_ += numel;
  }
}

at::Tensor ParameterLayout::view(const at::Tensor& flat, const Range& range) const {
  const at::Tensor slice = flat.narrow(0, range.offset, range.numel);
  if (range.shape.size() != 4 || convolutions_ == at::MemoryFormat::Contiguous) return slice.view(range.shape);
  const auto out = range.shape[0], in = range.shape[1], height = range.shape[2], width = range.shape[3];
  return slice.view({out, height, width, in}).permute({0, 3, 1, 2});
}

std::string ParameterLayout::description() const {
  std::ostringstream text;
  for (const Range& range : ranges_) {
    text << range.name << " @" << range.offset;
    for (const std::int64_t extent : range.shape) text << ' ' << extent;
    text << '\n';
  }
  return text.str();
}

}  // namespace perrin::trainer
