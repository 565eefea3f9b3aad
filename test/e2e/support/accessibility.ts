import type { Page } from 'playwright-core';

/**
 * The basic checks of WCAG 2.2 AA that a machine can make: names of controls, references that lead somewhere, unique
 * ids, and the contrast of every visible text with what is painted behind it.
 * @returns what is wrong, one line each; empty when nothing is.
 */
export function accessibilityFaults(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const faults: string[] = [];
    // Colours on their way from one to another are none of the design's: to their end with them.
    for (const animation of document.getAnimations())
      if (Number.isFinite(animation.effect?.getComputedTiming().endTime)) animation.finish();
    const seen = (element: Element): boolean =>
      element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
      element.closest('[aria-hidden="true"], [inert], .visually-hidden') === null;
    const describe = (element: Element): string =>
      `<${element.tagName.toLowerCase()} class="${element.getAttribute('class') ?? ''}"> "${(element.textContent || element.getAttribute('aria-label') || '').trim().slice(0, 40)}"`;

    const ids = new Map<string, number>();
    for (const { id } of document.querySelectorAll('[id]')) ids.set(id, (ids.get(id) ?? 0) + 1);
    for (const [id, count] of ids) if (count > 1) faults.push(`${count} elements have the id ${id}`);
    for (const attribute of ['aria-labelledby', 'aria-describedby']) {
      for (const element of document.querySelectorAll(`[${attribute}]`)) {
        for (const id of (element.getAttribute(attribute) ?? '').split(/\s+/))
          if (!ids.has(id)) faults.push(`${describe(element)}: ${attribute} names ${id}, which is not there`);
      }
    }

    for (const element of document.querySelectorAll(
      'button, input, textarea, select, a, [role="radio"], [role="tab"]',
    )) {
      if (!seen(element)) continue;
      const labelled =
        element.getAttribute('aria-label') ??
        (element.hasAttribute('aria-labelledby') ? 'yes' : null) ??
        (element instanceof HTMLInputElement || element instanceof HTMLTextAreaElement
          ? Array.from(element.labels ?? [], (label) => label.textContent).join('')
          : element.textContent);
      if (!labelled.trim()) faults.push(`${describe(element)} has no name`);
    }
    for (const role of ['dialog', 'alertdialog', 'menu', 'tablist', 'radiogroup', 'toolbar', 'progressbar']) {
      for (const element of document.querySelectorAll(`[role="${role}"]`))
        if (!element.hasAttribute('aria-label') && !element.hasAttribute('aria-labelledby'))
          faults.push(`${describe(element)}: the ${role} has no name`);
    }

    // Colours in whatever form CSS gives them, by painting one pixel.
    const canvas = new OffscreenCanvas(1, 1);
    const context = canvas.getContext('2d', { willReadFrequently: true });
    if (!context) return ['no canvas to compute colours with'];
    type Rgba = [number, number, number, number];
    const known = new Map<string, Rgba>();
    const parse = (color: string): Rgba => {
      let rgba = known.get(color);
      if (!rgba) {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        const [r = 0, g = 0, b = 0, a = 0] = context.getImageData(0, 0, 1, 1).data;
        known.set(color, (rgba = [r, g, b, a / 255]));
      }
      return rgba;
    };
    const over = (top: Rgba, bottom: Rgba): Rgba => {
      const mix = (index: 0 | 1 | 2): number => top[index] * top[3] + bottom[index] * (1 - top[3]);
      return [mix(0), mix(1), mix(2), 1];
    };
    const behind = (element: Element): Rgba => {
      const layers: Rgba[] = [];
      for (let at: Element | null = element; at; at = at.parentElement) {
        const layer = parse(getComputedStyle(at).backgroundColor);
        if (layer[3] > 0) layers.push(layer);
        if (layer[3] === 1) break;
      }
      return layers.reduceRight<Rgba>((bottom, top) => over(top, bottom), [255, 255, 255, 1]);
    };
    const luminance = ([r, g, b]: Rgba): number => {
      const linear = (value: number): number =>
        value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
      return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const checked = new Set<Element>();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    // A modal dialog dims what is behind it: only the dialog counts then.
    const modal = document.querySelector('dialog[open]:last-of-type');
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!element || !node.textContent?.trim() || checked.has(element)) continue;
      checked.add(element);
      // What is switched off is exempt (WCAG 1.4.3); the terminal looks after its own contrast.
      if (
        !seen(element) ||
        element.closest(':disabled, [aria-disabled="true"], .xterm, label:has(:disabled)')
      )
        continue;
      if (modal && !modal.contains(element)) continue;
      const style = getComputedStyle(element);
      const background = behind(element);
      const [light, dark] = [luminance(over(parse(style.color), background)), luminance(background)].sort(
        (a, b) => b - a,
      );
      const ratio = ((light ?? 0) + 0.05) / ((dark ?? 0) + 0.05);
      const large =
        parseFloat(style.fontSize) >= 24 ||
        (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
      const least = large ? 3 : 4.5;
      if (ratio < least)
        faults.push(`${describe(element)}: contrast ${ratio.toFixed(2)}, ${least} is needed`);
    }
    return faults;
  });
}
