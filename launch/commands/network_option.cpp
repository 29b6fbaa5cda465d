#include "launch/commands/network_option.hpp"

#include <fmt/format.h>

#include <vector>

#include "launch/bench_networks.hpp"
#include "launch/commands/image_option.hpp"
#include "launch/config/read.hpp"
#include "launch/usage_error.hpp"

namespace perrin::launch {

void add_network_options(CLI::App& app, NetworkArguments& arguments) {
  app.add_option("NETWORK", arguments.network,
                 "ddpm-cifar10 (35.7 million parameters), small (1.1 million), or a TOML file")
      ->type_name("NAME|FILE")
      ->capture_default_str();
  app.add_option("--image", arguments.image, "Shape of the images, which are made up (default: the network's)")
      ->type_name("CxHxW");
  app.allow_extras();
  arguments.app = &app;
}

BenchNetwork read_network(const NetworkArguments& arguments) {
  std::vector<std::string> extras = arguments.app->remaining();
  const std::vector<Override> overrides = take_overrides(extras);
  if (!extras.empty())
    throw UsageError(
        fmt::format("unexpected '{}'; see `perrin bench {} --help`", extras.front(), arguments.app->get_name()));
  for (const BenchNetworkText& known : kBenchNetworks) {
    if (arguments.network != known.name) continue;
    const std::string image = arguments.image.empty() ? std::string(known.image) : arguments.image;
    return {arguments.network, read_config_text(known.toml, arguments.network, overrides), read_image_shape(image)};
  }
  return {arguments.network, read_config(arguments.network, overrides),
          read_image_shape(arguments.image.empty() ? "3x32x32" : arguments.image)};
}

}  // namespace perrin::launch
