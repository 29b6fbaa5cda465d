#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/MemoryFormat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/model/parameter_spec.hpp"

namespace perrin::trainer {

/// Where each parameter lives in a flat fp32 buffer. A pure function of the parameter list, so equal on all ranks.
class ParameterLayout {
 public:
  struct Range {
    std::string name;
    std::vector<std::int64_t> shape;  ///< logical: OIHW for convolutions
    std::int64_t offset = 0;          ///< elements; a multiple of kAlignment
    std::int64_t numel = 0;
  };

  static constexpr std::int64_t kAlignment = 16;  ///< elements: 64 bytes, one cache line and one AVX-512 register

  /// @param convolutions ChannelsLast stores 4-d parameters KRSC, Contiguous OIHW; their places are the same
  ParameterLayout(const std::vector<ParameterSpec>& specs, at::MemoryFormat convolutions);

  const std::vector<Range>& ranges() const { return ranges_; }
  /// Elements of the flat buffer, padding included.
  std::int64_t size() const { return size_; }
  /// Elements of all parameters, without padding.
  std::int64_t numel() const { return numel_; }
  at::MemoryFormat memory_format() const { return convolutions_; }
  /// View of one parameter in its logical shape. @param flat [size()], contiguous
  at::Tensor view(const at::Tensor& flat, const Range& range) const;
  /// Text from which the layout could be rebuilt; what ranks and checkpoints compare by hash.
  std::string description() const;

 private:
  std::vector<Range> ranges_;
  at::MemoryFormat convolutions_;
  std::int64_t size_ = 0;
  std::int64_t numel_ = 0;
};

}  // namespace perrin::trainer
