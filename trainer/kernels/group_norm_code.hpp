#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "trainer/kernels/group_norm.hpp"
#include "trainer/kernels/group_norm_plan.hpp"
#include "trainer/kernels/sigmoid.hpp"

/// Forward and backward of group_norm.hpp for one kind of lanes; compiled once for each instruction set.
///
/// A sample is worked on slice by slice (whole groups whose tensors stay in the second-level cache, so that memory is
/// read once), a slice tile by tile (some pixels), a tile block by block: some vectors of channels whose sums
/// stay in registers over the pixels of the tile. Nothing is summed across lanes there: sums are kept for each channel
/// and joined to groups afterwards, which costs the same for 1 channel in a group as for 64.
namespace perrin::trainer::group_norm_code {

// Sums of float32 run over this many pixels and are then added to those of the earlier tiles: 64 + 16 roundings for
// 32x32 pixels, not 1024.
inline constexpr std::int64_t kTilePixels = 64;

/// V > 0: V whole vectors of channels. V = 0: one vector, of which only the first `count` lanes are there.
template <typename Lanes, int V>
struct Vectors {
  static constexpr int kVectors = V == 0 ? 1 : V;
  int count;

  template <typename T>
  Lanes load(const T* from, int vector) const {
    if constexpr (V == 0) return Lanes::load(from, count);
    return Lanes::load(from + vector * Lanes::kCount);
  }
  template <typename T>
  void store(Lanes value, T* to, int vector) const {
    if constexpr (V == 0)
      value.store(to, count);
    else
      value.store(to + vector * Lanes::kCount);
  }
  void add_to(float* to, const Lanes* values) const {
    for (int v = 0; v < kVectors; ++v) store(load(to, v) + values[v], to, v);
  }
};

/// Calls work(channels) with the Vectors that fit a block.
template <typename Lanes, typename Work>
void with_vectors(const ChannelBlock& block, const Work& work) {
  if (block.count < Lanes::kCount) return work(Vectors<Lanes, 0>{static_cast<int>(block.count)});
  if constexpr (Lanes::kVectorsAtOnce >= 4)
    if (block.count == 4 * Lanes::kCount) return work(Vectors<Lanes, 4>{});
  if constexpr (Lanes::kVectorsAtOnce >= 2)
    if (block.count == 2 * Lanes::kCount) return work(Vectors<Lanes, 2>{});
  work(Vectors<Lanes, 1>{});
}

/// The rows of a tile: `pixels` of them, `stride` elements apart.
template <typename T>
struct Rows {
  T* first;
  std::int64_t stride;
};

/// What the channels of a block have in scratch memory, from the block's first one on.
template <typename Lanes>
struct ChannelNumbers {
  // u = (x factor + offset) gain + bias; x factor + offset is the normalised x.
  float *factor, *offset, *gain, *bias;
  // Sums over pixels. Forward: of x - origin, and of its square. Backward: of du, of du times the normalised x, and of
  // the normalised x.
  float *origin, *sum0, *sum1, *sum2;
  // dx = du of_du + x of_x + constant.
  float *of_du, *of_x, *constant;

  static ChannelNumbers in(float* scratch, std::int64_t stride) {
    ChannelNumbers n;
    float** arrays[kChannelArrays] = {&n.factor, &n.offset, &n.gain,  &n.bias, &n.origin,  &n.sum0,
                                      &n.sum1,   &n.sum2,   &n.of_du, &n.of_x, &n.constant};
    for (int i = 0; i < kChannelArrays; ++i) *arrays[i] = scratch + i * stride;
    return n;
  }
  ChannelNumbers from(std::int64_t channel) const {
    return {factor + channel, offset + channel, gain + channel,  bias + channel, origin + channel,  sum0 + channel,
            sum1 + channel,   sum2 + channel,   of_du + channel, of_x + channel, constant + channel};
  }
};

template <typename Lanes, typename Channels, typename T>
void add_moments(Channels channels, Rows<const T> x, std::int64_t pixels, const ChannelNumbers<Lanes>& numbers) {
  constexpr int kV = Channels::kVectors;
  Lanes origin[kV], sum[kV], squares[kV];
  for (int v = 0; v < kV; ++v) {
    origin[v] = channels.load(numbers.origin, v);
    sum[v] = squares[v] = Lanes::all(0);
  }
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int v = 0; v < kV; ++v) {
      const Lanes d = channels.load(x.first + p * x.stride, v) - origin[v];
      sum[v] = sum[v] + d;
      squares[v] = Lanes::fma(d, d, squares[v]);
    }
  }
  channels.add_to(numbers.sum0, sum);
  channels.add_to(numbers.sum1, squares);
}

/// Bits of the dropout mask of a block: bit i of bits[v * stride + p] is channel 16 v + i of pixel p.
struct KeptBits {
  const std::uint16_t* bits;
  std::int64_t stride;
  float factor;
};

/// y = dropout(activation(x factor + offset)), for which gain and bias are already in factor and offset.
template <typename Lanes, typename Channels, typename T>
void apply(Channels channels, Rows<const T> x, Rows<T> y, std::int64_t pixels, const ChannelNumbers<Lanes>& numbers,
           bool is_silu, const KeptBits& kept) {
  constexpr int kV = Channels::kVectors;
  Lanes factor[kV], offset[kV];
  for (int v = 0; v < kV; ++v) {
    factor[v] = channels.load(numbers.factor, v);
    offset[v] = channels.load(numbers.offset, v);
  }
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int v = 0; v < kV; ++v) {
      Lanes u = Lanes::fma(channels.load(x.first + p * x.stride, v), factor[v], offset[v]);
      if (is_silu) u = silu(u);
      if (kept.bits != nullptr) u = Lanes::where(kept.bits[v * kept.stride + p], u * Lanes::all(kept.factor));
      channels.store(u, y.first + p * y.stride, v);
    }
  }
}

/// du and its sums; silu'(u) = s (1 + u (1 - s)) with s = sigmoid(u).
template <typename Lanes, typename Channels, typename T>
void through_activation(Channels channels, Rows<const T> x, Rows<const T> dy, Rows<float> du, std::int64_t pixels,
                        const ChannelNumbers<Lanes>& numbers, bool is_silu, const KeptBits& kept) {
  constexpr int kV = Channels::kVectors;
  Lanes du_sum[kV], du_x_sum[kV], x_sum[kV];
  for (int v = 0; v < kV; ++v) du_sum[v] = du_x_sum[v] = x_sum[v] = Lanes::all(0);
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int v = 0; v < kV; ++v) {
      const Lanes normal = Lanes::fma(channels.load(x.first + p * x.stride, v), channels.load(numbers.factor, v),
                                      channels.load(numbers.offset, v));
      Lanes d = channels.load(dy.first + p * dy.stride, v);
      if (kept.bits != nullptr) d = Lanes::where(kept.bits[v * kept.stride + p], d * Lanes::all(kept.factor));
      if (is_silu) {
        const Lanes u = Lanes::fma(normal, channels.load(numbers.gain, v), channels.load(numbers.bias, v));
        const Lanes s = sigmoid(u);
        d = d * (s * Lanes::fma(u, Lanes::all(1.0F) - s, Lanes::all(1.0F)));
      }
      du_sum[v] = du_sum[v] + d;
      du_x_sum[v] = Lanes::fma(d, normal, du_x_sum[v]);
      x_sum[v] = x_sum[v] + normal;
      channels.store(d, du.first + p * du.stride, v);
    }
  }
  channels.add_to(numbers.sum0, du_sum);
  channels.add_to(numbers.sum1, du_x_sum);
  channels.add_to(numbers.sum2, x_sum);
}

template <typename Lanes, typename Channels, typename T>
void through_norm(Channels channels, Rows<const T> x, Rows<float> du, Rows<const T> residual, Rows<T> dx,
                  std::int64_t pixels, const ChannelNumbers<Lanes>& numbers) {
  constexpr int kV = Channels::kVectors;
  for (std::int64_t p = 0; p < pixels; ++p) {
    for (int v = 0; v < kV; ++v) {
      Lanes d = Lanes::fma(channels.load(x.first + p * x.stride, v), channels.load(numbers.of_x, v),
                           channels.load(numbers.constant, v));
      d = Lanes::fma(channels.load(du.first + p * du.stride, v), channels.load(numbers.of_du, v), d);
      if (residual.first != nullptr) d = d + channels.load(residual.first + p * residual.stride, v);
      channels.store(d, dx.first + p * dx.stride, v);
    }
  }
}

/// One sample at a time.
template <typename Lanes, typename T>
class Sample {
 public:
  Sample(const GroupNormShape& shape, const GroupNormParameters& parameters, float* scratch, std::int64_t sample)
      : shape_(shape),
        parameters_(parameters),
        slice_channels_(slice_channels(shape)),
        sample_(sample),
        numbers_(ChannelNumbers<Lanes>::in(scratch, padded_channels(shape))),
        du_(scratch + kChannelArrays * padded_channels(shape)) {}

  void forward(const GroupNormForward<T>& tensors) const {
    const bool is_silu = parameters_.activation == Activation::silu;
    for_slices([&](std::int64_t begin, std::int64_t end) {
      take_origin(tensors.x, begin, end);
      for_blocks(begin, end, [&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
        add_moments<Lanes>(channels, rows(tensors.x, block, pixel), pixels, numbers_.from(block.channel));
      });
      finish_moments(tensors, begin, end);
      for_blocks(begin, end, [&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
        apply<Lanes>(channels, rows(tensors.x, block, pixel), joined_rows(tensors.y, block, pixel), pixels,
                     numbers_.from(block.channel), is_silu, kept(block, pixel));
      });
    });
  }

  void backward(const GroupNormBackward<T>& tensors) const {
    const bool is_silu = parameters_.activation == Activation::silu;
    for_slices([&](std::int64_t begin, std::int64_t end) {
      take_normalisation(tensors.mean, tensors.rstd, begin, end);
      // du waits for its sums where dx will be, which costs no memory; bfloat16 would cost digits.
      const auto du = [&](const ChannelBlock& block, std::int64_t pixel) {
        if constexpr (std::is_same_v<T, float>)
          return rows(tensors.dx, block, pixel);
        else
          return Rows<float>{du_ + pixel * (end - begin) + block.channel - begin, end - begin};
      };
      for_blocks(begin, end, [&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
        through_activation<Lanes>(channels, rows(tensors.x, block, pixel), joined_rows(tensors.dy, block, pixel),
                                  du(block, pixel), pixels, numbers_.from(block.channel), is_silu, kept(block, pixel));
      });
      finish_sums(tensors, begin, end);
      for_blocks(begin, end, [&](auto channels, const ChannelBlock& block, std::int64_t pixel, std::int64_t pixels) {
        const bool has_residual = tensors.residual[block.source] != nullptr;
        through_norm<Lanes>(channels, rows(tensors.x, block, pixel), du(block, pixel),
                            has_residual ? rows(tensors.residual, block, pixel) : Rows<const T>{},
                            rows(tensors.dx, block, pixel), pixels, numbers_.from(block.channel));
      });
    });
  }

 private:
  template <typename Work>
  void for_slices(const Work& work) const {
    for (std::int64_t begin = 0; begin < shape_.channels; begin += slice_channels_)
      work(begin, begin + slice_channels_ < shape_.channels ? begin + slice_channels_ : shape_.channels);
  }

  /// Calls work(channels, block, first pixel, pixels) for every block of every tile.
  template <typename Work>
  void for_blocks(std::int64_t begin, std::int64_t end, const Work& work) const {
    for (std::int64_t pixel = 0; pixel < shape_.pixels; pixel += kTilePixels) {
      const std::int64_t left = shape_.pixels - pixel;
      for (std::int64_t channel = begin; channel < end;) {
        const ChannelBlock block = channel_block(shape_, channel, end, Lanes::kVectorsAtOnce);
        with_vectors<Lanes>(
            block, [&](auto channels) { work(channels, block, pixel, left < kTilePixels ? left : kTilePixels); });
        channel += block.count;
      }
    }
  }

  /// The rows of a block in the one of two tensors in which it lies.
  template <typename Element>
  Rows<Element> rows(Element* const (&tensors)[2], const ChannelBlock& block, std::int64_t pixel) const {
    return {tensors[block.source] + (sample_ * shape_.pixels + pixel) * block.source_channels + block.source_channel,
            block.source_channels};
  }
  /// The same in a tensor of all channels.
  template <typename Element>
  Rows<Element> joined_rows(Element* tensor, const ChannelBlock& block, std::int64_t pixel) const {
    return {tensor + (sample_ * shape_.pixels + pixel) * shape_.channels + block.channel, shape_.channels};
  }

  KeptBits kept(const ChannelBlock& block, std::int64_t pixel) const {
    if (parameters_.kept == nullptr) return {};
    const std::int64_t vectors = (shape_.channels + Lanes::kCount - 1) / Lanes::kCount;
    return {parameters_.kept + (sample_ * vectors + block.channel / Lanes::kCount) * shape_.pixels + pixel,
            shape_.pixels, parameters_.keep_factor};
  }

  // The first pixel: sums of differences from it lose nothing where the mean is large beside the deviation.
  void take_origin(const T* const (&x)[2], std::int64_t begin, std::int64_t end) const {
    for (std::int64_t channel = begin; channel < end;) {
      const ChannelBlock block = channel_block(shape_, channel, end, 1);
      const T* pixel = rows(x, block, 0).first;
      const int count = static_cast<int>(block.count);
      Lanes::load(pixel, count).store(numbers_.origin + channel, count);
      Lanes::all(0).store(numbers_.sum0 + channel, count);
      Lanes::all(0).store(numbers_.sum1 + channel, count);
      channel += block.count;
    }
  }

  struct Modulation {
    float add, gain, bias;
  };
  /// Of a channel: u = normal gain + bias, of x + add.
  Modulation modulation(std::int64_t channel) const {
    const std::int64_t at = sample_ * shape_.channels + channel;
    Modulation m{parameters_.add != nullptr ? parameters_.add[at] : 0.0F, parameters_.gamma[channel],
                 parameters_.beta[channel]};
    if (parameters_.scale != nullptr) {
      const float factor = 1.0F + parameters_.scale[at];
      m.gain *= factor;
      m.bias = __builtin_fmaf(m.bias, factor, parameters_.shift[at]);
    }
    return m;
  }

  void finish_moments(const GroupNormForward<T>& tensors, std::int64_t begin, std::int64_t end) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    const double pixels = static_cast<double>(shape_.pixels), count = pixels * static_cast<double>(width);
    for (std::int64_t from = begin; from < end; from += width) {
      // In float64: the parallel algorithm of Chan, Golub & LeVeque, over the channels of the group.
      double mean = 0, squares = 0;
      for (std::int64_t c = from; c < from + width; ++c) mean += channel_mean(c);
      mean /= static_cast<double>(width);
      for (std::int64_t c = from; c < from + width; ++c) {
        const double away = channel_mean(c) - mean;
        const double sum = numbers_.sum0[c];
        squares += numbers_.sum1[c] - sum * sum / pixels + pixels * (away * away);
      }
      const double variance = squares > 0 ? squares / count : squares * 0;  // NaN stays
      const double rstd = 1.0 / __builtin_sqrt(variance + static_cast<double>(tensors.eps));
      const std::int64_t group = sample_ * shape_.groups + from / width;
      tensors.mean[group] = static_cast<float>(mean);
      tensors.rstd[group] = static_cast<float>(rstd);
      for (std::int64_t c = from; c < from + width; ++c) {
        const Modulation m = modulation(c);
        const double factor = rstd * m.gain;
        numbers_.factor[c] = static_cast<float>(factor);
        numbers_.offset[c] = static_cast<float>((m.add - mean) * factor + m.bias);
      }
    }
  }

  /// Of x + add.
  double channel_mean(std::int64_t channel) const {
    const double add = parameters_.add != nullptr ? parameters_.add[sample_ * shape_.channels + channel] : 0.0F;
    return numbers_.origin[channel] + add + numbers_.sum0[channel] / static_cast<double>(shape_.pixels);
  }

  void take_normalisation(const float* mean, const float* rstd, std::int64_t begin, std::int64_t end) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    for (std::int64_t from = begin; from < end; from += width) {
      const std::int64_t group = sample_ * shape_.groups + from / width;
      for (std::int64_t c = from; c < from + width; ++c) {
        const Modulation m = modulation(c);
        numbers_.factor[c] = rstd[group];
        numbers_.offset[c] = (m.add - mean[group]) * rstd[group];
        numbers_.gain[c] = m.gain;
        numbers_.bias[c] = m.bias;
        numbers_.sum0[c] = numbers_.sum1[c] = numbers_.sum2[c] = 0;
      }
    }
  }

  // dx = rstd (g - mean(g) - normal mean(g normal)), g = du gain, means over the group.
  void finish_sums(const GroupNormBackward<T>& tensors, std::int64_t begin, std::int64_t end) const {
    const std::int64_t width = shape_.channels / shape_.groups;
    const double pixels = static_cast<double>(shape_.pixels), count = pixels * static_cast<double>(width);
    for (std::int64_t from = begin; from < end; from += width) {
      double mean = 0, mean_x = 0;
      for (std::int64_t c = from; c < from + width; ++c) {
        mean += static_cast<double>(numbers_.gain[c]) * numbers_.sum0[c];
        mean_x += static_cast<double>(numbers_.gain[c]) * numbers_.sum1[c];
      }
      mean /= count;
      mean_x /= count;
      const double rstd = tensors.rstd[sample_ * shape_.groups + from / width];
      for (std::int64_t c = from; c < from + width; ++c) {
        const std::int64_t at = sample_ * shape_.channels + c;
        tensors.du_sum[at] = numbers_.sum0[c];
        tensors.du_x_sum[at] = numbers_.sum1[c];
        const double gain = numbers_.gain[c];
        numbers_.of_du[c] = static_cast<float>(rstd * gain);
        numbers_.of_x[c] = static_cast<float>(-rstd * mean_x * rstd);
        numbers_.constant[c] = static_cast<float>(-rstd * (mean + mean_x * numbers_.offset[c]));
        if (tensors.dadd != nullptr)
          tensors.dadd[at] = static_cast<float>(
              rstd * (gain * numbers_.sum0[c] - pixels * mean - mean_x * static_cast<double>(numbers_.sum2[c])));
      }
    }
  }

  const GroupNormShape& shape_;
  const GroupNormParameters& parameters_;
  std::int64_t slice_channels_;
  std::int64_t sample_;
  ChannelNumbers<Lanes> numbers_;
  float* du_;  // [pixels, channels of the slice], for bfloat16
};

template <typename Lanes, typename T>
void forward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormForward<T>& tensors,
             const GroupNormRange& range) {
  for (std::int64_t n = range.begin; n < range.end; ++n)
    Sample<Lanes, T>(shape, parameters, range.scratch, n).forward(tensors);
}

template <typename Lanes, typename T>
void backward(const GroupNormShape& shape, const GroupNormParameters& parameters, const GroupNormBackward<T>& tensors,
              const GroupNormRange& range) {
  for (std::int64_t n = range.begin; n < range.end; ++n)
    Sample<Lanes, T>(shape, parameters, range.scratch, n).backward(tensors);
}

}  // namespace perrin::trainer::group_norm_code
