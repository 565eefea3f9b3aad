/**
 * Remembers where the focus is. The function that comes back puts it there again, or, where that element is gone or
 * takes no focus any more, as near to it as it can: on the row of the same machine in the list, on the selected row,
 * on the region of the window it was in.
 */
export function rememberFocus(): () => void {
  const before = document.activeElement;
  const vmId = before?.closest('[data-vm]')?.getAttribute('data-vm');
  const region = before?.closest('[data-region]');
  return () => {
    const places = [
      before,
      vmId ? document.querySelector(`[data-vm="${vmId}"]`) : null,
      vmId ? document.querySelector('[data-vm][aria-current="true"]') : null,
      region,
      document.querySelector('[data-vm][aria-current="true"]'),
    ];
    for (const place of places) {
      if (!(place instanceof HTMLElement)) continue;
      place.focus();
      if (document.activeElement === place) return;
    }
  };
}
