// Which ranks all others wait for.
#include <gmock/gmock.h>

#include "trainer/telemetry/stragglers.hpp"

namespace perrin::trainer {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// A rank that computes for so many seconds, 100 images, of 10 s.
RankTimes computing(double seconds) { return {.images = 100, .compute = seconds, .wait = 10 - seconds}; }

class Stragglers : public testing::Test {
 protected:
  StragglerWatch watch_{{"a", "b", "c"}};
};

TEST_F(Stragglers, AreBelowSevenTenthsOfTheBestSpeed) {
  EXPECT_THAT(watch_.observe({computing(7.1), computing(10), computing(9)}, 50), IsEmpty());
  EXPECT_THAT(watch_.observe({computing(6.9), computing(10), computing(9)}, 50),
              ElementsAre(AllOf(HasSubstr("rank 1 (b) is slow"), HasSubstr("0.69 of the speed of rank 0 (a)"),
                                HasSubstr("over the last 50 steps"))));
  EXPECT_THAT(watch_.slow_ranks(), ElementsAre(1));
}

TEST_F(Stragglers, AreNamedAgainOnlyWhenTheyChange) {
  EXPECT_THAT(watch_.observe({computing(5), computing(10), computing(5)}, 50), ElementsAre(HasSubstr("rank 1")));
  EXPECT_THAT(watch_.observe({computing(5), computing(10), computing(5)}, 50), IsEmpty());
  EXPECT_THAT(watch_.observe({computing(5), computing(10), computing(10)}, 50), ElementsAre(HasSubstr("rank 2 (c)")));
  EXPECT_THAT(watch_.observe({computing(5), computing(5), computing(10)}, 50),
              ElementsAre(HasSubstr("rank 1 (b) keeps up with the others again")));
  EXPECT_THAT(watch_.slow_ranks(), ElementsAre(2));
}

TEST_F(Stragglers, AreToldByImagesASecondWhateverTheShares) {
  RankTimes half = computing(5);
  half.images = 50;
  EXPECT_THAT(watch_.observe({computing(10), half, computing(10)}, 50), IsEmpty());
}

TEST_F(Stragglers, MayBeSlowAtLoadingAlone) {
  const RankTimes loading{.images = 100, .load = 8, .compute = 2};
  EXPECT_THAT(watch_.observe({computing(2), loading, computing(2)}, 50), ElementsAre(HasSubstr("8.0 s loading")));
}

TEST_F(Stragglers, AreJudgedOverTenStepsAndASecondAtLeast) {
  const auto hiccup = [](double seconds) { return RankTimes{.images = 10, .compute = seconds, .wait = 0.2 - seconds}; };
  for (int window = 0; window < 9; ++window)
    EXPECT_THAT(watch_.observe({hiccup(0.05), hiccup(window == 0 ? 0.2 : 0.05), hiccup(0.05)}, 1), IsEmpty());
  EXPECT_THAT(watch_.observe({hiccup(0.05), hiccup(0.05), hiccup(0.05)}, 1), IsEmpty());  // 0.77 over all ten
  for (int window = 0; window < 9; ++window)
    EXPECT_THAT(watch_.observe({hiccup(0.05), hiccup(0.1), hiccup(0.05)}, 1), IsEmpty());
  EXPECT_THAT(watch_.observe({hiccup(0.05), hiccup(0.1), hiccup(0.05)}, 1), ElementsAre(HasSubstr("0.50")));
  const RankTimes fast{.images = 10, .compute = 1e-3, .wait = 1e-3}, slow{.images = 10, .compute = 2e-3};
  EXPECT_THAT(watch_.observe({fast, slow, fast}, 100), IsEmpty());  // 2 ms in all
}

}  // namespace
}  // namespace perrin::trainer
