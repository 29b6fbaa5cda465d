#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"

namespace perrin::launch {

/// Which network a measurement is about: NETWORK, --image, and --SECTION.KEY=VALUE for its configuration.
struct NetworkArguments {
  std::string network = "small";
  std::string image;
  const CLI::App* app = nullptr;  ///< what it did not know itself are the changes of the configuration
};

struct BenchNetwork {
  std::string name;
  trainer::Config config;
  data::ImageShape image;
};

/// @param arguments  outlives the parsing
void add_network_options(CLI::App& app, NetworkArguments& arguments);

/// @throws ConfigError, UsageError
BenchNetwork read_network(const NetworkArguments& arguments);

}  // namespace perrin::launch
