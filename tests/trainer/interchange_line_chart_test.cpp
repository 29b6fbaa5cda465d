#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "trainer/interchange/line_chart.hpp"

namespace perrin::trainer {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string svg_of(const LineChart& chart) { return to_svg(std::span(&chart, 1)); }

TEST(LineChart, PlacesPointsOnLinearAndLogarithmicAxes) {
  // The plot is 660 by 240 pixels, y downwards.
  const Series line{"a", {0, 5, 10}, {1, 10, 10'000}};
  EXPECT_THAT(svg_of({.series = {line}}), HasSubstr("L0.0,240.0L330.0,239.8L660.0,0.0'"));
  EXPECT_THAT(svg_of({.log_y = true, .series = {line}}), HasSubstr("L0.0,240.0L330.0,180.0L660.0,0.0'"));
}

TEST(LineChart, InterruptsALineWhereThereIsNothingToShow) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg = svg_of({.log_y = true, .series = {{"a", {0, 1, 2, 3, 4}, {1, nan, 1'000, 0, 1}}}});
  EXPECT_THAT(svg, HasSubstr("'M0.0,240.0L0.0,240.0M330.0,0.0L330.0,0.0M660.0,240.0L660.0,240.0'"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LineChart, LabelsDecadesAndRoundNumbers) {
  const std::string svg = svg_of({.log_y = true, .series = {{"a", {0, 999}, {2e-6, 3}}}});
  for (const char* label : {">0<", ">200<", ">800<", ">0.01<", ">1<", ">10<", ">10<tspan dy='-5' font-size='9'>-6<"})
    EXPECT_THAT(svg, HasSubstr(label));
  const std::string narrow = svg_of({.log_y = true, .series = {{"a", {0, 1}, {0.03, 0.6}}}});
  for (const char* label : {">0.02<", ">0.05<", ">0.1<", ">0.2<", ">0.5<", ">1<"})
    EXPECT_THAT(narrow, HasSubstr(label));
  EXPECT_THAT(narrow, Not(HasSubstr(">0.01<")));
}

TEST(LineChart, NamesEverythingWithoutBreakingTheMarkup) {
  const std::string svg =
      svg_of({.title = "A & B", .x_label = "t < T", .y_label = "bits", .series = {{"x>0", {0}, {1}}}});
  for (const char* text : {"A &amp; B", "t &lt; T", ">bits<", "x&gt;0"}) EXPECT_THAT(svg, HasSubstr(text));
}

TEST(LineChart, DrawsWhatIsConstantOrEmpty) {
  EXPECT_THAT(svg_of({.series = {{"a", {0, 1}, {3, 3}}}}), Not(HasSubstr("nan")));
  EXPECT_THAT(svg_of({.log_y = true, .series = {{"a", {0, 1}, {0, 0}}}}), Not(HasSubstr("inf")));
  EXPECT_THAT(svg_of({}), HasSubstr("</svg>"));
}

TEST(LineChart, RefusesALineOfUnequalHalvesAndNoChart) {
  EXPECT_THROW(svg_of({.series = {{"a", {0, 1}, {3}}}}), std::invalid_argument);
  EXPECT_THROW(to_svg({}), std::invalid_argument);
}

}  // namespace
}  // namespace perrin::trainer
