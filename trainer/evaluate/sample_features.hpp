#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "comm/communicator.hpp"
#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/evaluate/feature_extractor.hpp"
#include "trainer/evaluate/variational_bound.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

/// Samples of a model and what an extractor says of them, in the order of their indices.
struct SampleFeatures {
  at::Tensor features;       ///< [N, D] float32
  at::Tensor probabilities;  ///< [N, K] float32; undefined where the extractor knows no classes
  at::Tensor images;         ///< uint8 [N, C, H, W]; undefined unless asked for
  std::string sha256;        ///< of all images, uint8 [N, C, H, W] in the order of their indices
  std::int64_t resumed = 0;  ///< samples that an earlier start had drawn
};

/// What is drawn, and what is kept of it.
struct SampleRequest {
  std::int64_t samples = 0;
  std::filesystem::path journal;  ///< where finished batches are kept until all are; its folder is made
  std::string key;                ///< all that the samples depend on: the configuration, and the hash of the weights
  bool keep_images = false;
};

/// Draws samples 0 .. n - 1 of config.sample, and extracts their features: all ranks in whole batches of
/// sample.batch_size, so that neither their number nor an interruption shows in a bit. The network and the extractor
/// see whole tiles of samples (sample_tiles), so that on the CPU the size of the batches shows in none either.
/// Training's random streams are not touched: all noise is keyed by sample index. The journal stays where it was
/// interrupted, and a later call with the same key and extractor goes on from it; a disk that refuses it costs nothing
/// else. Collective.
/// @param narrate  called on rank 0: what it will cost, before it starts, and every 10 s what is left; may be empty
/// @param interrupt  asked between batches
/// @return on rank 0 the samples, on others empty ones; nullopt if interrupted
/// @throws RunError, data::DataError, comm::CommError
std::optional<SampleFeatures> sample_features(const UNet& model, const Config& config, const data::ImageShape& shape,
                                              const FeatureExtractor& extractor, const SampleRequest& request,
                                              comm::Communicator& control, at::Device device,
                                              const Narrator& narrate = {}, const Interrupt& interrupt = {});

}  // namespace perrin::trainer
