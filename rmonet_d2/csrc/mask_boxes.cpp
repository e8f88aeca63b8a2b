// Boxes of soft masks on a CPU (Sec. 3.4, App. B): the loops over pixels of the pseudo labels.
//
// These are plain C functions, called by rmonet_d2/ops/compiled.py, so that neither the headers of
// Python nor those of PyTorch are needed. Masks are (N, H, W) float32, contiguous. Every function
// treats values below `min_value`, which is not negative, as 0. rmonet_mask_spans finds the span of
// each row outside which the row is 0; all other functions read only inside these spans.
//
// Values that count are not negative, so the bits of the masks are read as integers: these have the
// same order as the values, and their minima, maxima and sums can be vectorized in any order.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

// Uses the instructions of newer processors, which are selected when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define RMONET_VECTORIZED __attribute__((target_clones("avx2", "default")))
#endif
#endif
#ifndef RMONET_VECTORIZED
#define RMONET_VECTORIZED
#endif

namespace {

constexpr int32_t kInfinity = 0x7f800000;
constexpr int64_t kAtOnce = 8;

struct Span {  // columns first to end - 1
  int32_t first, end;
};

struct Box {
  int32_t x0, y0, x1, y1;  // x1 and y1 are exclusive
};

struct Components {
  std::vector<int64_t> plane;
  std::vector<Box> boxes;
};

int32_t bits_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Bits of min_value, with -0 treated as 0.
int32_t least_bits(float min_value) { return std::max(bits_of(min_value), 0); }

// Calls `work(begin, end)` until all of `count` is done, in at most `threads` threads.
template <class Work>
void parallel(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto take_turns = [&] {
    for (;;) {
      const int64_t begin = next.fetch_add(kAtOnce);
      if (begin >= count) return;
      work(begin, std::min(begin + kAtOnce, count));
    }
  };
  std::vector<std::thread> others;
  try {
    for (int64_t i = 1; i < threads && i * kAtOnce < count; ++i) others.emplace_back(take_turns);
  } catch (const std::system_error&) {  // cannot start more threads: the existing ones suffice
  }
  take_turns();
  for (std::thread& thread : others) thread.join();
}

struct Range {
  int32_t smallest, largest, not_finite;
};

// Extends the range by the values of a row, where values below `least` count as 0.
RMONET_VECTORIZED void widen(Range& range, const int32_t* row, int64_t width, int32_t least) {
  int32_t smallest = range.smallest, largest = range.largest, not_finite = range.not_finite;
  for (int64_t x = 0; x < width; ++x) {
    const int32_t value = row[x] >= least ? row[x] : 0;
    not_finite |= (row[x] >= kInfinity) | ((row[x] & 0x7fffffff) > kInfinity);
    smallest = std::min(smallest, value);
    largest = std::max(largest, value);
  }
  range = {smallest, largest, not_finite};
}

// Returns the span of a row that is not all 0, from its first to its last value that is not 0.
Span span_of(const int32_t* row, int64_t width, int32_t least) {
  const int32_t positive = std::max(least, 1);
  Span span{0, static_cast<int32_t>(width)};
  while (row[span.first] < positive) ++span.first;
  while (row[span.end - 1] < positive) --span.end;
  return span;
}

RMONET_VECTORIZED int32_t count_at_least(const int32_t* row, Span span, int32_t bound) {
  int32_t count = 0;
  for (int32_t x = span.first; x < span.end; ++x) count += row[x] >= bound;
  return count;
}

// Joins the runs of one plane row by row. The root of a component is its first run in row-major
// order.
class Plane {
 public:
  void clear() {
    runs_.clear();
    parent_.clear();
    boxes_.clear();
    above_ = row_ = 0;
  }

  void add(int32_t y, int32_t first, int32_t end) {
    parent_.push_back(size());
    runs_.push_back({first, end});
    boxes_.push_back({first, y, end, y + 1});
  }

  // Joins the runs of this row with those of the row above and proceeds to the next row.
  void end_row() {
    int32_t above = above_;
    for (int32_t i = row_; i < size(); ++i) {
      while (above < row_ && runs_[above].end < runs_[i].first) ++above;
      for (int32_t j = above; j < row_ && runs_[j].first <= runs_[i].end; ++j) join(j, i);
    }
    above_ = row_;
    row_ = size();
  }

  template <class Use>
  void components(const Use& use) const {
    for (int32_t i = 0; i < size(); ++i) {
      if (parent_[i] == i) use(boxes_[i]);
    }
  }

 private:
  int32_t size() const { return static_cast<int32_t>(parent_.size()); }

  int32_t root(int32_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }

  void join(int32_t a, int32_t b) {
    a = root(a);
    b = root(b);
    if (a == b) return;
    if (b < a) std::swap(a, b);
    parent_[b] = a;
    Box& box = boxes_[a];
    box.x0 = std::min(box.x0, boxes_[b].x0);
    box.y0 = std::min(box.y0, boxes_[b].y0);
    box.x1 = std::max(box.x1, boxes_[b].x1);
    box.y1 = std::max(box.y1, boxes_[b].y1);
  }

  std::vector<Span> runs_;
  std::vector<int32_t> parent_;
  std::vector<Box> boxes_;  // of a run and, for a root, of all runs joined to it
  int32_t above_ = 0, row_ = 0;  // first run of the row above, and of this row
};

// Finds the components of one mask at a time; reuses its buffers.
class MaskComponents {
 public:
  MaskComponents(int64_t height, int64_t width) : height_(height), width_(width), row_(width) {}

  // Appends the components of each class c >= 1 or, if `cumulative`, of the pixels of class c and
  // all higher classes, to found[c - 1], each with the index `number` of the mask. `thresholds` are
  // bits, in ascending order.
  void find(const int32_t* mask, const Span* spans, const std::vector<int32_t>& thresholds,
            bool cumulative, int64_t number, std::vector<Components>& found) {
    const auto num_levels = static_cast<int32_t>(thresholds.size());
    planes_.resize(num_levels);
    for (Plane& plane : planes_) plane.clear();
    for (int32_t y = 0; y < height_; ++y) {
      classify(mask + y * width_, spans[y], thresholds);
      for (int32_t level = 0; level < num_levels; ++level) {
        add_row(y, spans[y], level + 1, cumulative, planes_[level]);
      }
    }
    for (int32_t level = 0; level < num_levels; ++level) {
      planes_[level].components([&](const Box& box) {
        found[level].plane.push_back(number);
        found[level].boxes.push_back(box);
      });
    }
  }

 private:
  void classify(const int32_t* row, Span span, const std::vector<int32_t>& thresholds) {
    for (int32_t x = span.first; x < span.end; ++x) row_[x] = row[x] >= thresholds[0];
    for (size_t i = 1; i < thresholds.size(); ++i) {
      const int32_t threshold = thresholds[i];
      for (int32_t x = span.first; x < span.end; ++x) row_[x] += row[x] >= threshold;
    }
  }

  void add_row(int32_t y, Span span, int32_t lowest, bool cumulative, Plane& plane) const {
    const int32_t highest = cumulative ? std::numeric_limits<int32_t>::max() : lowest;
    for (int32_t x = span.first; x < span.end; ++x) {
      if (row_[x] < lowest || row_[x] > highest) continue;
      const int32_t first = x;
      while (x < span.end && row_[x] >= lowest && row_[x] <= highest) ++x;
      plane.add(y, first, x);
    }
    plane.end_row();
  }

  const int64_t height_, width_;
  std::vector<int32_t> row_;  // classes of one row; meaningful inside its span
  std::vector<Plane> planes_;
};

}  // namespace

extern "C" {

// Writes spans (N, H), the part of each row that is not 0, and low and high (N,), the smallest and
// largest value of each mask. If a value is NaN or inf, low and high are NaN and the spans empty.
void rmonet_mask_spans(const int32_t* masks, int64_t num_masks, int64_t height, int64_t width,
                       float min_value, int64_t threads, Span* spans, float* low, float* high) {
  const int32_t least = least_bits(min_value);
  const auto scan = [=](int64_t mask) {
    Range range{kInfinity, 0, 0};
    for (int64_t i = mask * height; i < (mask + 1) * height; ++i) {
      const int32_t* row = masks + i * width;
      Range in_row{range.smallest, 0, range.not_finite};
      widen(in_row, row, width, least);
      range = {in_row.smallest, std::max(range.largest, in_row.largest), in_row.not_finite};
      spans[i] = in_row.largest > 0 ? span_of(row, width, least) : Span{0, 0};
    }
    if (range.not_finite) {
      std::fill(spans + mask * height, spans + (mask + 1) * height, Span{0, 0});
      low[mask] = high[mask] = std::numeric_limits<float>::quiet_NaN();
    } else {
      std::memcpy(low + mask, &range.smallest, sizeof range.smallest);
      std::memcpy(high + mask, &range.largest, sizeof range.largest);
    }
  };
  parallel(num_masks, threads, [&](int64_t begin, int64_t end) {
    for (int64_t mask = begin; mask < end; ++mask) scan(mask);
  });
}

// Writes counts (N, E): the number of pixels of each mask at or above each of its edges (N, E),
// which are positive.
void rmonet_count_at_least(const int32_t* masks, int64_t num_masks, int64_t height, int64_t width,
                           float min_value, int64_t threads, const Span* spans, const float* edges,
                           int64_t num_edges, int64_t* counts) {
  const int32_t least = least_bits(min_value);
  parallel(num_masks, threads, [&](int64_t begin, int64_t end) {
    std::fill(counts + begin * num_edges, counts + end * num_edges, 0);
    for (int64_t i = begin * height; i < end * height; ++i) {
      const int32_t* row = masks + i * width;
      const Span span = spans[i];
      if (span.first == span.end) continue;
      const int64_t first_edge = i / height * num_edges;
      for (int64_t edge = first_edge; edge < first_edge + num_edges; ++edge) {
        const int32_t bound = std::max(least, bits_of(edges[edge]));
        counts[edge] += count_at_least(row, span, bound);
      }
    }
  });
}

// Finds the 8-connected components of the classes between thresholds (N, C - 1), which are positive
// and ascending; +inf is never reached. Components are ordered by class, mask and first pixel, with
// plane = (class - 1) N + mask. The caller must pass the result to rmonet_take_components.
Components* rmonet_find_components(const int32_t* masks, int64_t num_masks, int64_t height,
                                   int64_t width, float min_value, int64_t threads,
                                   const Span* spans, const float* thresholds, int64_t num_levels,
                                   int32_t cumulative, int64_t* num_components) {
  const int32_t least = least_bits(min_value);
  const int64_t num_parts = (num_masks + kAtOnce - 1) / kAtOnce;
  std::vector<std::vector<Components>> parts(num_parts, std::vector<Components>(num_levels));
  parallel(num_masks, threads, [&](int64_t begin, int64_t end) {
    MaskComponents components(height, width);
    std::vector<int32_t> bounds;
    for (int64_t mask = begin; mask < end; ++mask) {
      bounds.clear();
      for (int64_t level = 0; level < num_levels; ++level) {
        const int32_t bound = bits_of(thresholds[mask * num_levels + level]);
        if (bound < kInfinity) bounds.push_back(std::max(least, bound));
      }
      if (bounds.empty()) continue;
      components.find(masks + mask * height * width, spans + mask * height, bounds, cumulative,
                      mask, parts[begin / kAtOnce]);
    }
  });
  auto* all = new Components;
  for (int64_t level = 0; level < num_levels; ++level) {
    for (const std::vector<Components>& part : parts) {
      for (int64_t mask : part[level].plane) all->plane.push_back(level * num_masks + mask);
      all->boxes.insert(all->boxes.end(), part[level].boxes.begin(), part[level].boxes.end());
    }
  }
  *num_components = static_cast<int64_t>(all->plane.size());
  return all;
}

// Writes plane (M,) and boxes (M, 4) of the result of rmonet_find_components, which is deleted.
void rmonet_take_components(Components* components, int64_t* plane, int64_t* boxes) {
  std::copy(components->plane.begin(), components->plane.end(), plane);
  for (const Box& box : components->boxes) {
    for (int32_t side : {box.x0, box.y0, box.x1, box.y1}) *boxes++ = side;
  }
  delete components;
}

// Writes means (M,): the mean of mask number[i] over box i of (M, 4), which is inside the mask and
// not empty.
void rmonet_box_means(const float* masks, int64_t height, int64_t width, float min_value,
                      int64_t threads, const Span* spans, const int64_t* number,
                      const int64_t* boxes, int64_t num_boxes, double* means) {
  parallel(num_boxes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t *box = boxes + 4 * i, first_row = number[i] * height;
      double sum = 0;
      for (int64_t y = box[1]; y < box[3]; ++y) {
        const Span span = spans[first_row + y];
        const float* row = masks + (first_row + y) * width;
        const int64_t end_column = std::min<int64_t>(box[2], span.end);
        for (int64_t x = std::max<int64_t>(box[0], span.first); x < end_column; ++x) {
          sum += row[x] >= min_value ? row[x] : 0.0f;
        }
      }
      means[i] = sum / static_cast<double>((box[2] - box[0]) * (box[3] - box[1]));
    }
  });
}

}  // extern "C"
