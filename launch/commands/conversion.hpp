#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>

#include "data/prepare.hpp"
#include "data/source/open_source.hpp"
#include "data/source/transform.hpp"
#include "launch/exit_code.hpp"
#include "launch/session.hpp"

namespace perrin::launch {

/// Images to keep for evaluation: of the output DIR they become DIR/heldout, the others DIR/train.
struct HeldOut {
  std::uint64_t drawn = 0;  ///< so many, by the seed of the stored order
  bool test_set = false;    ///< or the test set of a source that comes divided
};

/// What becomes a dataset, and how.
struct Conversion {
  std::filesystem::path input;
  data::SourceOptions source;
  data::TransformOptions transform;
  bool skip_unfit = false;  ///< images that cannot be decoded or transformed are left out, instead of ending the work
  HeldOut held_out;
  data::PrepareOptions options;
};

/// Adds --labels, --images-key, --labels-key, --layout and --class-names.
void add_array_options(CLI::App& app, data::SourceOptions& source);
/// Adds --shard-images, --seed and --keep-order.
void add_storage_options(CLI::App& app, data::PrepareOptions& options);

/// Writes the dataset, or two, as the work of all ranks; the files are the same on any number of them.
/// @throws data::DataError, or on several ranks RankFailure; UsageError for options that contradict each other
ExitCode convert(const Conversion& conversion, Session& session);

}  // namespace perrin::launch
