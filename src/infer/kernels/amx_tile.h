/* The matrix unit's instructions (AMX-TILE, AMX-INT8, AMX-BF16), one inline function each.
 *
 * Inline assembly instead of gcc's intrinsics: in gcc 12 `_tile_loadconfig` declares 8 of its 64 bytes as input and
 * `_tile_loadd` no memory at all, so stores before them may be dropped. Here every function that touches memory says so.
 * Tiles are named by constants, since an instruction names its registers.
 *
 * With NEF_AMX_EMULATED the same names are C functions that do what Intel's SDM writes under each instruction, so the code
 * above them is tested on processors without the unit. Source: Intel 64 and IA-32 SDM, volume 2, chapter 3 (TILE*, TDP*).
 *
 * A thread needs the kernel's permission first (nef_kernels_thread_enter). */
#ifndef NEF_INFER_KERNELS_AMX_TILE_H
#define NEF_INFER_KERNELS_AMX_TILE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NEF_TILES 8

/* What LDTILECFG reads. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "LDTILECFG reads 64 bytes");

#ifndef NEF_AMX_EMULATED

static inline void tile_configure(const struct tile_config *c)
{
    __asm__ volatile("ldtilecfg %0" : : "m"(*c) : "memory");
}
static inline void tile_release(void) { __asm__ volatile("tilerelease" : : : "memory"); }

#define tile_zero(t) __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define tile_load(t, base, stride)                                                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"((const void *)(base)), "r"((ptrdiff_t)(stride)) : "memory")
#define tile_store(t, base, stride)                                                                                    \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"((void *)(base)), "r"((ptrdiff_t)(stride)) : "memory")
/* c += a * b: signed bytes times signed bytes into int32, and pairs of bf16 into float. */
#define tile_dot_i8(c, a, b)   __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
#define tile_dot_bf16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

#else

#include <math.h>

struct tile_emulated {
    uint8_t row[16][64];
};
static __thread struct {
    struct tile_config config;
    struct tile_emulated tile[NEF_TILES];
} tiles_here;

static inline void tile_configure(const struct tile_config *c)
{
    tiles_here.config = *c;
    memset(tiles_here.tile, 0, sizeof tiles_here.tile);
}
static inline void tile_release(void) { memset(&tiles_here, 0, sizeof tiles_here); }
static inline void tile_zero(int t) { memset(&tiles_here.tile[t], 0, sizeof tiles_here.tile[t]); }
static inline void tile_load(int t, const void *base, ptrdiff_t stride)
{
    struct tile_emulated *to = &tiles_here.tile[t];
    memset(to, 0, sizeof *to);
    for (int r = 0; r < tiles_here.config.rows[t]; r++)
        memcpy(to->row[r], (const uint8_t *)base + r * stride, tiles_here.config.row_bytes[t]);
}
static inline void tile_store(int t, void *base, ptrdiff_t stride)
{
    for (int r = 0; r < tiles_here.config.rows[t]; r++)
        memcpy((uint8_t *)base + r * stride, tiles_here.tile[t].row[r], tiles_here.config.row_bytes[t]);
}
static inline void tile_dot_i8(int c, int a, int b)
{
    const struct tile_config *g = &tiles_here.config;
    for (int m = 0; m < g->rows[c]; m++)
        for (int n = 0; n < g->row_bytes[c] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tiles_here.tile[c].row[m][4 * n], 4);
            for (int k = 0; k < g->row_bytes[a] / 4; k++)
                for (int i = 0; i < 4; i++)
                    sum += (int8_t)tiles_here.tile[a].row[m][4 * k + i] * (int8_t)tiles_here.tile[b].row[k][4 * n + i];
            memcpy(&tiles_here.tile[c].row[m][4 * n], &sum, 4);
        }
}
static inline float tile_bf16_at(const uint8_t *at)
{
    uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 24;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
/* Two chains of fma, even and odd, from zero; then c + (even + odd). MXCSR's FTZ and DAZ are set, as the unit behaves. */
static inline void tile_dot_bf16(int c, int a, int b)
{
    const struct tile_config *g = &tiles_here.config;
    for (int m = 0; m < g->rows[c]; m++)
        for (int n = 0; n < g->row_bytes[c] / 4; n++) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < g->row_bytes[a] / 4; k++) {
                const uint8_t *x = &tiles_here.tile[a].row[m][4 * k], *y = &tiles_here.tile[b].row[k][4 * n];
                even = fmaf(tile_bf16_at(x), tile_bf16_at(y), even);
                odd = fmaf(tile_bf16_at(x + 2), tile_bf16_at(y + 2), odd);
            }
            memcpy(&sum, &tiles_here.tile[c].row[m][4 * n], 4);
            sum = sum + (even + odd);
            memcpy(&tiles_here.tile[c].row[m][4 * n], &sum, 4);
        }
}

#endif
#endif
