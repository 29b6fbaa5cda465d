#pragma once

#include <string_view>

namespace perrin::trainer {

/// The text of pipeline.py, which goes into exported folders; the build makes it from that file.
extern const std::string_view kPipelineSource;

}  // namespace perrin::trainer
