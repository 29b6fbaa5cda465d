#pragma once

// The precompiled header of the trainer: ATen alone takes 10 s to parse, torch/torch.h 27 s, so nothing here includes
// the latter.
#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>
