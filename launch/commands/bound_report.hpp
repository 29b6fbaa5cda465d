#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "trainer/evaluate/variational_bound.hpp"

/// The variational bound as people and programs read it.
namespace perrin::launch {

/// L_T, L_0, the sum of what lies between and its parts over ten ranges of timesteps, and the total; in bits/dim.
nlohmann::ordered_json bound_summary(const trainer::VariationalBound& bound);

/// The same as lines of a table, from t = T - 1 down to 0 as the process runs, with the mean errors beside.
std::string bound_table(const trainer::VariationalBound& bound);

/// Writes vlb.json (`report`), vlb.npz (every term as an array over timesteps) and vlb.svg into a folder, which is made
/// if need be; files of an earlier report are replaced.
/// @throws data::DataError when one cannot be written
void write_bound(const std::filesystem::path& folder, const trainer::VariationalBound& bound,
                 const nlohmann::ordered_json& report);

}  // namespace perrin::launch
